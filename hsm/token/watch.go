package token

import (
	"context"
	"fmt"
	"time"

	"github.com/kmsgate/kmsgate/hsm/token/internal/p11"
)

// watch has a worker make canary signatures, even while the token is idle. They detect a loss, so
// that unsealed keys are dropped.
func (t *Token) watch() {
	tick := time.NewTicker(t.cfg.WatchEvery)
	defer tick.Stop()
	for {
		select {
		case <-t.done:
			return
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(context.Background(), t.cfg.WatchEvery)
		_ = t.Health(ctx) // the worker that fails marks the connection as lost
		cancel()
	}
}

// A watchdog decides whether the token hangs.
type watchdog struct {
	token  *Token
	probe  chan struct{} // closed when the canary signature has returned; nil if there is none
	probed time.Duration // how long that has taken
	told   bool          // the log says that a call does not return
}

// run calls OnHang if the token hangs. It counts time by its own ticks. A tick that comes late counts
// once: the process, or the machine, stood still or had no processor.
func (w *watchdog) run() {
	t := w.token
	interval := min(time.Second, t.cfg.WatchEvery)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for last := time.Now(); ; {
		select {
		case <-t.done:
			return
		case <-tick.C:
		}
		now := time.Now()
		passed := now.Sub(last)
		if passed > 2*interval {
			passed = interval
		}
		last = now
		t.module.Age(passed, func(c p11.Call) bool { return c.Generates() && c.Age < t.cfg.GenerateAfter })
		if err := w.look(passed); err != nil {
			t.cfg.OnHang(err)
			return
		}
	}
}

// overdue returns the oldest call beyond its limit.
func (w *watchdog) overdue() (oldest p11.Call, found bool) {
	t := w.token
	for _, c := range t.module.InFlight() {
		limit := t.cfg.HangAfter
		if c.Generates() {
			limit = t.cfg.GenerateAfter
		}
		if c.Age > limit && c.Age > oldest.Age {
			oldest, found = c, true
		}
	}
	return oldest, found
}

// look returns an error if the token hangs.
func (w *watchdog) look(passed time.Duration) error {
	t := w.token
	call, found := w.overdue()
	if !found {
		*w = watchdog{token: t}
		return nil
	}
	hang := fmt.Errorf("%s in module %q has not returned for %v and cannot be cancelled", call.Name, t.cfg.Module, call.Age.Round(time.Second))
	if t.current.Load() == nil {
		return fmt.Errorf("%w; there is no connection to the token, and no other before it returns; this process must be restarted", hang)
	}
	if !w.told {
		w.told = true
		t.log.Error("a call into the token does not return; the gateway tries whether others do", "err", hang)
	}
	switch {
	case w.probe == nil:
		w.probe, w.probed = make(chan struct{}), 0
		go func(done chan struct{}) {
			defer close(done)
			_ = t.canary(context.Background(), t.probes) // whether it returns matters, not what
		}(w.probe)
	case isClosed(w.probe):
		w.probe = nil
	case w.probed > t.cfg.HangAfter:
		return fmt.Errorf("%w, nor does a signature in another session; this process must be restarted", hang)
	default:
		w.probed += passed
	}
	return nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// longCall is the age from which explain names a call.
const longCall = 2 * time.Second

// explain adds to an error that the token has not answered which call has been in flight for long, if
// there is one.
func explain(t *Token, err error) error {
	var longest p11.Call
	for _, c := range t.module.InFlight() {
		if c.Age > longest.Age {
			longest = c
		}
	}
	if longest.Age < longCall {
		return err
	}
	return fmt.Errorf("%w (%s has been running for %v)", err, longest.Name, longest.Age.Round(time.Second))
}
