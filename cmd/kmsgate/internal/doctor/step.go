package doctor

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// A step is a part of an examination. It runs in its own goroutine, because whatever it waits
// for can hang, and a call into the system or into a PKCS#11 module cannot be cancelled.
type step struct {
	doing string // starts a sentence: Examining "/x"
	do    string // advice if it does not finish
}

// The advice for steps that do not finish.
const (
	fileAdvice = "check the file system with mount and dmesg, and check that no path is a named pipe"

	gatewayAdvice = "look for the reason in the gateway's log, and restart the gateway if it does not recover"

	tokenAdvice = "check that the token is connected and that its module answers"

	waitAdvice = "; if it is only slow, give it more time with --timeout, such as --timeout 1m"
)

// A pending is the result of a step, which may never come.
type pending[T any] struct {
	step   step
	result chan T
}

// start calls f in a goroutine.
func start[T any](s step, f func() T) pending[T] {
	p := pending[T]{s, make(chan T, 1)}
	go func() { p.result <- f() }()
	return p
}

// wait returns the result. ok is false if ctx is done before it comes.
func (p pending[T]) wait(ctx context.Context) (result T, ok bool) {
	select {
	case result = <-p.result:
		return result, true
	case <-ctx.Done():
	}
	select {
	case result = <-p.result:
		return result, true
	default:
		return result, false
	}
}

// collect is wait for a step whose result is zero if it does not finish. It records such a step.
func collect[T any](ctx context.Context, e *examination, p pending[T]) T {
	result, ok := p.wait(ctx)
	if !ok {
		e.found.late = append(e.found.late, p.step)
	}
	return result
}

// share returns a context that is done after a part of the time that ctx has left.
func share(ctx context.Context, part float64) (context.Context, context.CancelFunc) {
	deadline, _ := ctx.Deadline() // Examine sets it
	return context.WithTimeout(ctx, time.Duration(part*float64(time.Until(deadline))))
}

// ask runs a step that calls the gateway, in a part of the time that is left. It reports
// whether the step has finished. Unless a step itself says that its findings are incomplete,
// they are dropped if it has not.
func (e *examination) ask(ctx context.Context, part float64, s step, f func(ctx context.Context, d *Diagnosis)) bool {
	ctx, cancel := share(ctx, part)
	defer cancel()
	limit, cancelLimit := share(ctx, 0.9) // a step that obeys it returns in time
	defer cancelLimit()
	d, ok := start(s, func() *Diagnosis {
		d := new(Diagnosis)
		f(limit, d)
		return d
	}).wait(ctx)
	if !ok || limit.Err() != nil && !d.Incomplete {
		e.found.late = append(e.found.late, s)
		return false
	}
	e.found.add(d)
	return true
}

// reportLate adds one problem for all steps that have not finished: they can have one cause.
// It is the first finding, because it can be the cause of others.
func (d *Diagnosis) reportLate() {
	if len(d.late) == 0 {
		return
	}
	d.Incomplete = true
	f := Finding{Severity: Problem, What: d.late[0].doing + " has not finished in time: it hangs, or it is slow.",
		Do: d.late[0].do + waitAdvice}
	for _, s := range d.late[1:] {
		f.Symptoms = append(f.Symptoms, fmt.Sprintf("%s has not finished either.", s.doing))
	}
	f.Symptoms = append(f.Symptoms, d.skipped...)
	d.Findings = slices.Insert(d.Findings, 0, f)
}
