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

// An overlap finds out whether the module signs while it makes a key. For that, it requests one canary
// signature during each call that has been making a key for long.
type overlap struct {
	token *Token

	during  []p11.Call    // the calls that were making keys at the last request
	result  chan error    // gets the result of the signature; nil if there is no request
	signed  bool          // it has returned, without an error
	counted time.Duration // since the request, or since the signature
}

// look is called at each tick of the watchdog.
func (o *overlap) look(passed time.Duration) {
	var making []p11.Call
	if o.token.current.Load() != nil { // otherwise no worker takes the request
		making = makingKeys(o.token)
	}
	if o.result == nil {
		if len(making) > 0 && making[0].Age > longCall && (o.during == nil || making[0].ID != o.during[0].ID) {
			o.request(making)
		}
		return
	}
	if !o.signed && o.receive() {
		return
	}
	if slices.ContainsFunc(o.during, func(c p11.Call) bool { return !containsCall(making, c) }) {
		if o.signed {
			o.result = nil // it may have waited for the call that has ended
		}
		return
	}
	// A call that has ended in the module is in flight until its thread runs again. So a signature
	// only shows that the module did not wait if the calls last for some time after it.
	if o.counted += passed; o.counted > longCall {
		setSerial(o.token, !o.signed)
		if o.signed {
			o.result = nil
		}
	}
}

func (o *overlap) request(during []p11.Call) {
	t, result := o.token, make(chan error, 1)
	*o = overlap{token: t, during: during, result: result}
	go func() { result <- t.canary(context.Background(), t.probes) }()
}

// receive reports whether the request has ended since the last tick. An error shows nothing.
func (o *overlap) receive() bool {
	select {
	case err := <-o.result:
		o.signed, o.counted = err == nil, 0
		if err != nil {
			o.result = nil
		}
		return true
	default:
		return false
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

// occupied returns an error if the module has been making a key for long and does nothing else at the same time.
// Otherwise, callers would wait for their whole deadlines.
func occupied(t *Token) error {
	if !oneAtATime(t) {
		return nil
	}
	making := makingKeys(t)
	if len(making) == 0 || making[0].Age <= longCall {
		return nil
	}
	return fmt.Errorf("%w: it does one call at a time, and %s", hsm.ErrUnavailable, describe(making[0]))
}
