package clock_test

import (
	"strings"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/gateway/clock"
)

var noon = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

// hands are the hands of a clock that a test moves.
type hands struct {
	wall time.Time
	seen time.Duration
}

func (h *hands) clock(last time.Time, reason string) *clock.Clock {
	return clock.New(func() time.Time { return h.wall }, func() time.Duration { return h.seen }, last, reason)
}

// pass lets time pass, seen and on the clock.
func (h *hands) pass(d time.Duration) { h.wall, h.seen = h.wall.Add(d), h.seen+d }

func (h *hands) jump(d time.Duration) { h.wall = h.wall.Add(d) }

func expect(t *testing.T, moment string, c *clock.Clock, want string) {
	t.Helper()
	if got := c.Problem(); (got == "") != (want == "") || !strings.Contains(got, want) {
		t.Errorf("%s: got %q, want %q", moment, got, want)
	}
}

func TestJumps(t *testing.T) {
	const day = 24 * time.Hour
	for _, jump := range []time.Duration{8 * day, 365 * day, -time.Hour, -365 * day, 3 * time.Minute} {
		h := hands{wall: noon}
		c := h.clock(time.Time{}, "")
		h.pass(10 * day)
		expect(t, "before", c, "")
		h.jump(jump)
		expect(t, "after a jump", c, "it jumped by "+jump.String())
		h.pass(25 * time.Second)
		h.jump(-jump)
		expect(t, "after the jump back", c, "it jumped by "+(-jump).String())
		h.pass(day - time.Second)
		expect(t, "before a day has passed", c, "it jumped")
		h.pass(time.Second)
		expect(t, "after a day of agreement", c, "")
		h.jump(jump)
		expect(t, "after another jump", c, "it jumped")
		c.Confirm()
		expect(t, "after an operator's word", c, "")
		h.pass(time.Hour)
		expect(t, "later", c, "")
	}
}

// TestMonotonic checks that the readings of the monotonic clock in times do not hide a jump.
func TestMonotonic(t *testing.T) {
	began := time.Now()
	now := began
	c := clock.New(func() time.Time { return now }, func() time.Duration { return 0 }, time.Time{}, "")
	now = began.Add(time.Hour) // moves both readings
	expect(t, "after a jump", c, "it jumped by 1h")
	if got := c.Now(); got != got.Round(0) {
		t.Errorf("Now: %v has a reading of the monotonic clock", got)
	}
}

// TestCorrections moves the clock as a time server does that corrects it slowly, and in small steps that
// together are a jump.
func TestCorrections(t *testing.T) {
	h := hands{wall: noon}
	c := h.clock(time.Time{}, "")
	for range 48 {
		h.pass(time.Hour)
		h.jump(2 * time.Second)
		expect(t, "slow corrections", c, "")
	}
	for range 30 {
		h.pass(time.Second)
		h.jump(10 * time.Second)
		c.Problem()
	}
	expect(t, "after many steps", c, "it jumped")
}

func TestStart(t *testing.T) {
	for last, want := range map[time.Time]string{
		{}:                            "",
		noon.Add(-time.Minute):        "",
		noon.Add(-time.Hour):          "",
		noon.Add(time.Minute):         "",
		noon.Add(-3 * time.Hour):      "no gateway ran",
		noon.Add(-9 * 24 * time.Hour): "no gateway ran",
		noon.Add(time.Hour):           "before the last recorded time",
	} {
		h := hands{wall: noon, seen: time.Minute}
		expect(t, "last "+last.String(), h.clock(last, ""), want)
	}
	h := hands{wall: noon}
	c := h.clock(noon, "it jumped before the restart")
	expect(t, "after a restart", c, "before the restart")
	h.pass(24 * time.Hour)
	expect(t, "a day after a restart", c, "")
}
