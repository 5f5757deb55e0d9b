package limit

import (
	"net/netip"
	"sync"
	"time"
)

// knownTime is how long a source is known after a caller authenticated from it.
const knownTime = 10 * time.Minute

// Known remembers from which sources, each an IPv4 address or an IPv6 /64, a caller authenticated
// within the last ten minutes. It is safe for concurrent use. Create one with [NewKnown].
type Known struct {
	mu    sync.Mutex
	until map[netip.Prefix]time.Time // guarded by mu
}

// NewKnown returns a Known without sources.
func NewKnown() *Known { return &Known{until: make(map[netip.Prefix]time.Time)} }

// Add records that a caller authenticated from a source.
func (k *Known) Add(source netip.Prefix) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.until[source] = time.Now().Add(knownTime)
}

// Has reports whether a source is known.
func (k *Known) Has(source netip.Prefix) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return time.Now().Before(k.until[source])
}

// PrefixOf returns the network that an address counts against, as NetworkOf does: an IPv4
// address or an IPv6 /64. For text that is not an address it returns the zero Prefix.
func PrefixOf(source string) netip.Prefix {
	address, err := netip.ParseAddr(source)
	if err != nil {
		return netip.Prefix{}
	}
	address = address.Unmap().WithZone("")
	bits := address.BitLen()
	if address.Is6() {
		bits = 64
	}
	prefix, _ := address.Prefix(bits) // the address is valid, and has as many bits
	return prefix
}
