package limit

import (
	"cmp"
	"sync"
)

const (
	// SmallBody is the largest body of an authenticated caller, in bytes, that is not counted:
	// each connection can send one at any time.
	SmallBody = 64 << 10

	// SmallRequest is the most bytes of query and body, of a request whose caller is not
	// authenticated yet, that are not counted. Requests to sign have about 1 KB.
	SmallRequest = 4 << 10

	maxBodies          = 128 << 20 // bytes of all larger bodies together
	maxBodiesPerCaller = 32 << 20  // bytes of one caller's larger bodies
)

// Bodies counts the bytes of large bodies that are being read or used. Clients can send
// their bodies as slowly as they like, so the memory for all of them needs a limit. The zero
// value is ready for use, with the limits for authenticated callers: 128 MiB, and 32 MiB for
// one of them. The methods are safe for concurrent use.
type Bodies struct {
	max, maxPerCaller int64 // zero means maxBodies and maxBodiesPerCaller

	mu       sync.Mutex
	total    int64            // bytes reserved; guarded by mu
	byCaller map[string]int64 // bytes reserved, by the principal's name or by the network; guarded by mu
}

// StrangerBodies returns the Bodies for the networks that are not [Known]: 32 MiB, and 4 MiB
// for one of them. That is room for sixteen requests of the greatest size, and for a
// thousand that are just too large not to be counted.
func StrangerBodies() *Bodies { return &Bodies{max: 32 << 20, maxPerCaller: 4 << 20} }

// KnownBodies returns the Bodies for the networks that are [Known]: 64 MiB, and 16 MiB for
// one of them.
func KnownBodies() *Bodies { return &Bodies{max: 64 << 20, maxPerCaller: 16 << 20} }

// Reserve reserves n bytes for a caller and reports whether there was room. If there was
// not, it reserves nothing.
func (b *Bodies) Reserve(caller string, n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.total+n > cmp.Or(b.max, maxBodies) || b.byCaller[caller]+n > cmp.Or(b.maxPerCaller, maxBodiesPerCaller) {
		return false
	}
	if b.byCaller == nil {
		b.byCaller = make(map[string]int64)
	}
	b.total += n
	b.byCaller[caller] += n
	return true
}

// Bytes returns how many bytes are reserved.
func (b *Bodies) Bytes() float64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return float64(b.total)
}

// Release releases n bytes that Reserve reserved for the same caller.
func (b *Bodies) Release(caller string, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.total -= n
	if b.byCaller[caller] -= n; b.byCaller[caller] == 0 {
		delete(b.byCaller, caller)
	}
}
