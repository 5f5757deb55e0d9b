// Package clock tells whether this machine's clock can be believed. A dead battery, a wrong time server
// or a suspended machine makes it jump, and such a jump must not cause an action that cannot be undone.
package clock

import (
	"fmt"
	"sync"
	"time"
)

const (
	// Tolerance is how far the clock may move away in an hour from the time that was seen to pass. Time
	// servers correct a clock by less than two seconds in an hour unless they set it.
	Tolerance = 2 * time.Minute
	// MaxGap is the longest time between the last known time and a start for which the clock is believed.
	MaxGap = 2 * time.Hour
	// Agreement is how long the clock must agree with the time that is seen to pass before it is
	// believed again.
	Agreement = 24 * time.Hour
)

// Wall returns the time of this machine's clock.
func Wall() time.Time { return wall() }

// Seen returns how much time this process has seen pass.
func Seen() time.Duration { return seen() }

// A Clock compares this machine's clock with the time that the process has seen pass. Its methods are
// safe for concurrent use. Create one with [New].
type Clock struct {
	wall func() time.Time
	seen func() time.Duration

	mu       sync.Mutex
	anchor   time.Time     // what the clock showed at anchored; guarded by mu, like the fields below
	anchored time.Duration // in time seen
	reason   string        // why the clock is not believed; empty if it is
	since    time.Duration // in time seen: when it last jumped
}

// New returns a Clock. last is the last time that was known before this process, or zero, and reason says
// why the clock was not believed then, or is empty.
func New(wall func() time.Time, seen func() time.Duration, last time.Time, reason string) *Clock {
	c := &Clock{wall: wall, seen: seen, reason: reason}
	c.anchor, c.anchored = c.Now(), seen()
	c.since = c.anchored
	if last.IsZero() || reason != "" {
		return c
	}
	switch gap := c.anchor.Sub(last); {
	case gap < -Tolerance:
		c.reason = fmt.Sprintf("at the start it showed %s, which is before the last recorded time, %s", format(c.anchor), format(last))
	case gap > MaxGap:
		c.reason = fmt.Sprintf("at the start it showed %s; the last recorded time is %s, and no gateway ran in between to confirm it", format(c.anchor), format(last))
	}
	return c
}

func format(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Now returns the time of this machine's clock, without a reading of the monotonic clock, which does not
// follow jumps.
func (c *Clock) Now() time.Time { return c.wall().Round(0) }

// Seen returns how much time the process has seen pass.
func (c *Clock) Seen() time.Duration { return c.seen() }

// Problem returns why the clock cannot be believed, or "" if it can. It notices a jump at once.
func (c *Clock) Problem() string {
	_, problem := c.Read()
	return problem
}

// Read returns the time, and why it cannot be believed, or "" if it can.
func (c *Clock) Read() (now time.Time, problem string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now = c.Now()
	seen := c.seen()
	passed := seen - c.anchored
	switch jump := now.Sub(c.anchor) - passed; {
	case jump.Abs() > Tolerance:
		c.reason = fmt.Sprintf("it jumped by %v, to %s", jump.Round(time.Second), format(now))
		c.since = seen
		c.anchor, c.anchored = now, seen
	case passed > time.Hour:
		c.anchor, c.anchored = now, seen
	}
	if c.reason != "" && seen-c.since >= Agreement {
		c.reason = ""
	}
	return now, c.reason
}

// Confirm makes the Clock believe this machine's clock as it is now.
func (c *Clock) Confirm() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.anchor, c.anchored, c.reason = c.Now(), c.seen(), ""
}
