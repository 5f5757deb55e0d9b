package token

import (
	"sync"
	"sync/atomic"
	"time"
)

// inflight knows what is being done with the module, so that a call that hangs is
// found. The zero value is ready for use.
type inflight struct {
	mu  sync.Mutex
	all map[*doing]struct{} // guarded by mu
}

// A doing is one or more calls into the module, one after the other.
type doing struct {
	what  string
	began time.Time
	last  atomic.Int64 // when the call that is under way began, in nanoseconds since then
}

// goOn says that a call has returned and that another one begins. Who makes many
// of them has to say so. The doing may be nil.
func (d *doing) goOn() {
	if d != nil {
		d.last.Store(int64(time.Since(d.began))) // by the clock that nobody can set
	}
}

// during calls f, which calls into the module.
func (i *inflight) during(what string, f func(*doing)) {
	d := &doing{what: what, began: time.Now()}
	i.mu.Lock()
	if i.all == nil {
		i.all = make(map[*doing]struct{})
	}
	i.all[d] = struct{}{}
	i.mu.Unlock()
	defer func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		delete(i.all, d)
	}()
	f(d)
}

// oldest gives what has been in one call for longest, and how long.
func (i *inflight) oldest() (what string, since time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for d := range i.all {
		if s := time.Since(d.began) - time.Duration(d.last.Load()); s > since {
			what, since = d.what, s
		}
	}
	return what, since
}
