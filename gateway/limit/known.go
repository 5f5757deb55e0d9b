package limit

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// KnownTime is how long a network is known after one of its callers authenticated.
	KnownTime = 10 * time.Minute

	// MaxKnown is the greatest number of networks that are known.
	MaxKnown = 4096
)

// Known holds the networks from which callers authenticated within KnownTime, at most
// MaxKnown of them, as [PrefixOf] returns them. Its memory is bounded, and no caller can add a
// network without authenticating. The methods are safe for concurrent use. Create one with
// [NewKnown].
type Known struct {
	began time.Time // times are durations since then, on the monotonic clock

	mu       sync.RWMutex
	networks map[netip.Prefix]*atomic.Int64 // when a caller last authenticated; guarded by mu
}

// NewKnown returns a Known without networks.
func NewKnown() *Known {
	return &Known{began: time.Now(), networks: make(map[netip.Prefix]*atomic.Int64)}
}

// Add records that a caller from a network authenticated now. If there are MaxKnown others,
// the network that authenticated least recently is forgotten. For a network that was added
// before, Add allocates nothing. It ignores the zero Prefix.
func (k *Known) Add(source netip.Prefix) {
	if !source.IsValid() {
		return
	}
	now := time.Since(k.began)
	k.mu.RLock()
	last, ok := k.networks[source]
	k.mu.RUnlock()
	if ok {
		last.Store(int64(now))
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.networks[source]; !ok && len(k.networks) >= MaxKnown {
		k.forgetLocked(now)
	}
	last = new(atomic.Int64)
	last.Store(int64(now))
	k.networks[source] = last
}

// forgetLocked forgets the networks that are no longer known, and at least the oldest.
func (k *Known) forgetLocked(now time.Duration) {
	var oldest netip.Prefix
	first := now + 1
	for network, last := range k.networks {
		switch added := time.Duration(last.Load()); {
		case now-added >= KnownTime:
			delete(k.networks, network)
		case added < first:
			oldest, first = network, added
		}
	}
	if len(k.networks) >= MaxKnown {
		delete(k.networks, oldest)
	}
}

// Has reports whether a network is known. It allocates nothing.
func (k *Known) Has(source netip.Prefix) bool {
	k.mu.RLock()
	last, ok := k.networks[source]
	k.mu.RUnlock()
	return ok && time.Since(k.began)-time.Duration(last.Load()) < KnownTime
}
