package token

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/token/internal/p11"
)

// This file deals with modules that do one call at a time for the whole process. No module says so.

// probers is the number of workers that make canary signatures for the watchdog. An overlap uses one, and
// if its signature does not return, the other can still show that the token does not hang.
const probers = 2

// An overlap finds out whether other calls return while the module makes a key. For each call that has been
// making a key for longer than longCall, it requests one canary signature, and watches whether that or any
// other call that began later returns.
type overlap struct {
	token *Token

	watching bool
	during   []p11.Call    // the calls that were making keys when it began to watch
	since    uint64        // the last call that had begun then
	returned bool          // a later one has returned
	counted  time.Duration // since it began to watch, or since that return

	overlaps int // times that a later call has returned, since the module was found to do one call at a time
}

// look is called at each tick of the watchdog.
func (o *overlap) look(passed time.Duration) {
	var making []p11.Call
	if o.token.current.Load() != nil { // otherwise no worker takes the request
		making = makingKeys(o.token)
	}
	if !o.watching {
		if len(making) > 0 && making[0].Age > longCall && (o.during == nil || making[0].ID != o.during[0].ID) {
			o.watch(making)
		}
		return
	}
	if slices.ContainsFunc(o.during, func(c p11.Call) bool { return !containsCall(making, c) }) {
		o.watching = false
		if o.returned { // perhaps because the key was made
			o.count()
		}
		return
	}
	if _, returned := o.token.module.Progress(); !o.returned && returned > o.since {
		o.returned, o.counted = true, 0
		return
	}
	// A call that has ended in the module is in flight until its thread runs again. So another one that
	// returns only shows that it did not wait if the calls last for some time after it.
	switch o.counted += passed; {
	case o.returned && o.counted > longCall:
		o.watching = false
		setSerial(o.token, false)
	case !o.returned && o.counted > 2*longCall: // less could be a moment in which an HSM does not answer
		o.overlaps = 0
		setSerial(o.token, true)
	}
}

func (o *overlap) watch(during []p11.Call) {
	t := o.token
	begun, _ := t.module.Progress()
	*o = overlap{token: t, watching: true, during: during, since: begun, overlaps: o.overlaps}
	go func() { _ = t.canary(context.Background(), t.probes) }() // ErrBusy means that earlier ones have not returned
}

// count counts a call that returned shortly before a key was made. One can be a coincidence.
func (o *overlap) count() {
	if o.overlaps++; o.overlaps > 1 {
		setSerial(o.token, false)
	}
}

// makingKeys returns the calls that make keys, the oldest first.
func makingKeys(t *Token) []p11.Call {
	all := slices.DeleteFunc(t.module.InFlight(), func(c p11.Call) bool { return !c.Generates() })
	slices.SortFunc(all, func(a, b p11.Call) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

func containsCall(all []p11.Call, call p11.Call) bool {
	return slices.ContainsFunc(all, func(c p11.Call) bool { return c.ID == call.ID })
}

// setSerial records whether the module does one call at a time.
func setSerial(t *Token, serial bool) {
	changed := t.serial.Swap(serial) != serial
	switch {
	case serial && changed:
		t.log.Warn("the token does one call at a time: when making a key takes longer than 2 s, "+
			"requests that need the token get 503 until the key is made", "module", t.cfg.Module)
	case !serial && changed:
		t.log.Info("the token signs while it makes a key, after all", "module", t.cfg.Module)
	case !serial:
		t.log.Debug("the token signs while it makes a key", "module", t.cfg.Module)
	}
}

// oneAtATime reports whether the module is known to do one call at a time.
func oneAtATime(t *Token) bool { return t.module.OneAtATime() || t.serial.Load() }

// occupied returns an error if the module does one call at a time and has been making a key for longer than
// longCall, unless the call has exceeded its limit. Otherwise, callers would wait for their whole deadlines.
func occupied(t *Token) error {
	if !oneAtATime(t) {
		return nil
	}
	for _, c := range makingKeys(t) {
		if c.Age > longCall && c.Age < t.cfg.GenerateAfter {
			return fmt.Errorf("%w: it does one call at a time, and %s", hsm.ErrUnavailable, describe(c))
		}
	}
	return nil
}
