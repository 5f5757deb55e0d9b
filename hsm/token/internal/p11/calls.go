package p11

import (
	"strings"
	"sync"
	"time"
)

// calls is the set of the calls in flight. The zero value is ready for use.
type calls struct {
	mu       sync.Mutex
	all      map[*call]struct{} // guarded by mu, like the fields below
	ids      uint64             // the last ID
	returned uint64             // the greatest ID of a call of the module that has returned
}

// A call is one call into the module.
type call struct {
	id   uint64
	name string
	age  time.Duration // guarded by calls.mu
}

func (c *calls) begin(name string) *call {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ids++
	begun := &call{id: c.ids, name: name}
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
	if strings.HasPrefix(ended.name, "C_") {
		c.returned = max(c.returned, ended.id)
	}
}

// age makes the calls in flight older by d. While one of the calls excuses the others, only that one
// becomes older.
func (c *calls) age(d time.Duration, excuses func(Call) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	excused := false
	for one := range c.all {
		if excuses(Call{one.id, one.name, one.age}) {
			one.age += d
			excused = true
		}
	}
	for one := range c.all {
		if !excused {
			one.age += d
		}
	}
}

// inFlight returns the calls in flight.
func (c *calls) inFlight() (all []Call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for one := range c.all {
		all = append(all, Call{one.id, one.name, one.age})
	}
	return all
}

// progress returns the IDs of the last call that has begun, and of the last of those that have returned.
func (c *calls) progress() (begun, returned uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ids, c.returned
}
