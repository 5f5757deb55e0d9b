package limit

import "sync"

const (
	// SmallBody is the largest body, in bytes, that is not counted: each connection may
	// send one at any time. Larger bodies share maxBodies, and those of one caller
	// maxBodiesEach.
	SmallBody     = 64 << 10
	maxBodies     = 128 << 20
	maxBodiesEach = 32 << 20
)

// Bodies counts the bytes of large bodies that are being read or used. A client can take
// as long as it likes to send a body, so the memory for all of them has to have a bound.
// The zero value is ready for use. Its methods may be called from any goroutine.
type Bodies struct {
	mu  sync.Mutex
	all int64            // guarded by mu
	by  map[string]int64 // the same for each principal; guarded by mu
}

// Take reserves n bytes for a caller and reports whether there was room. If there was
// not, it reserves nothing.
func (b *Bodies) Take(who string, n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.all+n > maxBodies || b.by[who]+n > maxBodiesEach {
		return false
	}
	if b.by == nil {
		b.by = make(map[string]int64)
	}
	b.all += n
	b.by[who] += n
	return true
}

// Bytes returns how many bytes are reserved.
func (b *Bodies) Bytes() float64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return float64(b.all)
}

// Give releases n bytes that Take reserved for the same caller.
func (b *Bodies) Give(who string, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all -= n
	if b.by[who] -= n; b.by[who] == 0 {
		delete(b.by, who)
	}
}
