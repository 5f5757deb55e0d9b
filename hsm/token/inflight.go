package token

import (
	"sync"
	"time"
)

// inflight knows the calls into the module that have not returned, so that one
// that hangs is found. The zero value is ready for use.
type inflight struct {
	mu    sync.Mutex
	calls map[*inflightCall]struct{} // guarded by mu
}

type inflightCall struct {
	what  string
	began time.Time
}

// during calls f, which calls into the module.
func (i *inflight) during(what string, f func()) {
	c := &inflightCall{what, time.Now()}
	i.mu.Lock()
	if i.calls == nil {
		i.calls = make(map[*inflightCall]struct{})
	}
	i.calls[c] = struct{}{}
	i.mu.Unlock()
	defer func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		delete(i.calls, c)
	}()
	f()
}

// oldest gives what has taken longest so far, and how long.
func (i *inflight) oldest() (what string, since time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for c := range i.calls {
		if d := time.Since(c.began); d > since {
			what, since = c.what, d
		}
	}
	return what, since
}
