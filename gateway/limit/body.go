package limit

import "sync"

const (
	// SmallBody is the largest body, in bytes, that is not counted: each connection can send
	// one at any time.
	SmallBody = 64 << 10

	maxBodies          = 128 << 20 // bytes of all larger bodies together
	maxBodiesPerCaller = 32 << 20  // bytes of one caller's larger bodies
)

// Bodies counts the bytes of large bodies that are being read or used. Clients can send
// their bodies as slowly as they like, so the memory for all of them needs a limit. The zero
// value is ready for use. The methods are safe for concurrent use.
type Bodies struct {
	mu       sync.Mutex
	total    int64            // bytes reserved; guarded by mu
	byCaller map[string]int64 // bytes reserved, by the principal's name; guarded by mu
}

// Reserve reserves n bytes for a caller and reports whether there was room. If there was
// not, it reserves nothing.
func (b *Bodies) Reserve(caller string, n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.total+n > maxBodies || b.byCaller[caller]+n > maxBodiesPerCaller {
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
