package p11

import (
	"sync"
	"time"
)

// calls are those that are under way. The zero value is ready for use.
type calls struct {
	mu  sync.Mutex
	all map[*call]struct{} // guarded by mu
}

// A call is one call into the module.
type call struct {
	name  string
	began time.Time // by the clock that nobody can set
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

// longest returns the call that has been under way for longest, and for how long.
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
