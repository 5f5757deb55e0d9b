package p11

import (
	"sync"
	"time"
)

// calls is the set of the calls in flight. The zero value is ready for use.
type calls struct {
	mu  sync.Mutex
	all map[*call]struct{} // guarded by mu
}

// A call is one call into the module.
type call struct {
	name  string
	began time.Time // with a monotonic clock reading
}

func (c *calls) begin(name string) *call {
	begun := &call{name, time.Now()}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = make(map[*call]struct{})
	}
	c.all[begun] = struct{}{}
	return begun
}

func (c *calls) end(ended *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.all, ended)
}

// longest returns the call that has been in flight for longest, and for how long.
func (c *calls) longest() (name string, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for one := range c.all {
		if t := time.Since(one.began); t > took {
			name, took = one.name, t
		}
	}
	return name, took
}
