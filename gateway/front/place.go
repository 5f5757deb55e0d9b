package front

import (
	"container/list"
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
)

// A place is what an open connection takes up. Its methods are safe for concurrent use.
type place struct {
	// These do not change.
	process  *Process
	listener *listener
	source   netip.Prefix
	conn     net.Conn        // closed to make room
	open     context.Context // done when the place is left
	close    func()          // ends open

	authenticated atomic.Bool

	// The process's lock guards these.
	unknown bool          // the source was unknown, and the connection has not authenticated
	element *list.Element // of the process's list; nil after authenticating or leaving
	large   *int          // where the connection counts as one that sends a large header; nil if nowhere
	left    bool          // the place is no longer taken
	evicted bool          // another connection took it
}

// authenticate records that the connection carried a request that was verified. Until
// becomeUnauthenticated, it is not closed to make room.
func (c *place) authenticate() {
	if c.authenticated.Load() {
		return
	}
	p := c.process
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.element == nil {
		return // it was closed
	}
	p.unauthenticated.Remove(c.element)
	c.element = nil
	p.add(c, -1)
	c.unknown = false
	p.add(c, 1)
	c.authenticated.Store(true)
}

// becomeUnauthenticated records that a caller on the connection could not authenticate. From now on
// the connection can be closed to make room again.
func (c *place) becomeUnauthenticated() {
	if !c.authenticated.Load() {
		return
	}
	p := c.process
	p.mu.Lock()
	defer p.mu.Unlock()
	if !c.left && c.element == nil {
		c.element = p.unauthenticated.PushBack(c)
		c.authenticated.Store(false)
	}
}

// leave frees the place. Further calls do nothing.
func (c *place) leave() {
	c.process.mu.Lock()
	defer c.process.mu.Unlock()
	c.process.remove(c)
}

// failHandshake counts a TLS handshake that failed with err, unless the connection was closed to make
// room.
func (c *place) failHandshake(err error) {
	c.process.mu.Lock()
	defer c.process.mu.Unlock()
	switch {
	case c.evicted:
	case errors.Is(err, errBusy):
		c.process.counts.Busy++
	default:
		c.process.counts.Handshakes++
	}
}

// beginLargeHeader reports whether the connection may send a large header. If so, the caller
// must call endLargeHeader when the request has ended.
func (c *place) beginLargeHeader() bool {
	p := c.process
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.large.take(c) {
		p.counts.LargeHeaders++
		return false
	}
	return true
}

func (c *place) endLargeHeader() {
	c.process.mu.Lock()
	defer c.process.mu.Unlock()
	c.process.large.release(c)
}

// How many unauthenticated connections can send a large header at once. maxLargeHeaders holds for all
// unknown sources together, and separately for all known sources together. maxLargeHeadersPerSource holds
// for each source. Reading a large header takes up to 1 MiB for a while, because net/http copies the request
// line several times.
const (
	maxLargeHeaders          = 64
	maxLargeHeadersPerSource = 16
)

// largeHeaders counts the connections that send a large header. Its caller must guard it.
type largeHeaders struct {
	unknown, known int // by source
	bySource       map[netip.Prefix]int
}

// take counts a connection that has not authenticated. It reports whether there was room.
func (h *largeHeaders) take(c *place) bool {
	if c.large != nil {
		return true
	}
	total := h.total(c)
	if c.left || *total >= maxLargeHeaders || h.bySource[c.source] >= maxLargeHeadersPerSource {
		return false
	}
	c.large = total
	*total++
	h.bySource[c.source]++
	return true
}

func (h *largeHeaders) total(c *place) *int {
	if c.unknown {
		return &h.unknown
	}
	return &h.known
}

// release counts a connection no longer. It does nothing if the connection is not counted.
func (h *largeHeaders) release(c *place) {
	if c.large == nil {
		return
	}
	*c.large--
	c.large = nil
	if h.bySource[c.source]--; h.bySource[c.source] == 0 {
		delete(h.bySource, c.source)
	}
}
