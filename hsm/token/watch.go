package token

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kmsgate/kmsgate/hsm"
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
	overlap := overlap{token: t}
	for last := t.cfg.now(); ; {
		select {
		case <-t.done:
			return
		case <-tick.C:
		}
		now := t.cfg.now()
		passed := now.Sub(last)
		if passed > 2*interval {
			passed = interval
		}
		last = now
		t.module.Age(passed, w.excuses)
		overlap.look(passed)
		if err := w.look(passed); err != nil {
			t.cfg.OnHang(err)
			return
		}
	}
}

// connectFactor is how many times HangAfter a call may take while there is no connection. Network HSMs
// can take two minutes until they give up connecting.
const connectFactor = 6

// overdue returns the oldest call into the module beyond its limit. Config.BeforeLogin and
// Config.AfterChange wait for a disk, which a restart would not repair.
func (w *watchdog) overdue() (oldest p11.Call, found bool) {
	t := w.token
	for _, c := range t.module.InFlight() {
		limit := t.cfg.HangAfter
		switch {
		case strings.HasPrefix(c.Name, "Config."):
			continue
		case c.Generates():
			limit = t.cfg.GenerateAfter
		case t.current.Load() == nil:
			limit *= connectFactor
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
		return fmt.Errorf("%w; the gateway cannot connect to the token before the call returns; this process must be restarted", hang)
	}
	if !w.told {
		w.told = true
		t.log.Error("a call into the token does not return; the gateway checks whether others do", "err", hang)
	}
	switch {
	case w.probe == nil:
		w.probe, w.probed = make(chan struct{}), 0
		go func(done chan struct{}) {
			// Whether it returns matters, not what. ErrBusy means that earlier ones have not returned.
			if err := t.canary(context.Background(), t.probes); !errors.Is(err, hsm.ErrBusy) {
				close(done)
			}
		}(w.probe)
	case isClosed(w.probe):
		w.probe = nil
	case w.probed > t.cfg.HangAfter:
		return fmt.Errorf("%w; a signature in another session does not return either; this process must be restarted", hang)
	case !w.generates():
		w.probed += passed
	}
	return nil
}

// generates reports whether a key is being made within its time. All other calls may then wait for it.
func (w *watchdog) generates() bool { return slices.ContainsFunc(w.token.module.InFlight(), w.excuses) }

func (w *watchdog) excuses(c p11.Call) bool {
	return c.Generates() && c.Age < w.token.cfg.GenerateAfter
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// longCall is the age from which errors name a call.
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
	return fmt.Errorf("%w (%s)", err, describe(longest))
}

func describe(c p11.Call) string {
	return fmt.Sprintf("%s has been running for %v", c.Name, c.Age.Round(time.Second))
}
