package limit

import "sync"

const (
	// SmallBody is what each connection may send at any time; of larger ones there
	// are so many bytes at once, for all callers and for one.
	SmallBody     = 64 << 10
	maxBodies     = 128 << 20
	maxBodiesEach = 32 << 20
)

// Bodies counts the bytes of large bodies that are being read or used. A client can
// take as long as it likes to send one.
type Bodies struct {
	mu  sync.Mutex
	all int64            // guarded by mu
	by  map[string]int64 // the same for each principal; guarded by mu
}

// Take counts n bytes in, and reports whether there is room for them.
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

// Bytes returns how many are counted in.
func (b *Bodies) Bytes() float64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return float64(b.all)
}

// Give counts n bytes out.
func (b *Bodies) Give(who string, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all -= n
	if b.by[who] -= n; b.by[who] == 0 {
		delete(b.by, who)
	}
}
