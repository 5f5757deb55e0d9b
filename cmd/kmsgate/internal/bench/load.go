// Package bench puts load on an endpoint that speaks the API, or on anything else that answers
// calls, and measures the answers.
//
// What it guarantees:
//
//   - A call counts if it begins within the measured time. Its latency counts in full, even if the
//     answer comes later. Calls of the warm-up do not count.
//   - In the open loop a latency begins when the call was due, not when a caller was free for it. So
//     a server that stalls cannot hide the calls that wait for it.
//   - It uses little memory, however long it runs: a latency is in a histogram, which is exact to
//     1 %.
//   - Answers are checked after the measured time, so the checks do not affect the figures.
package bench

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// A Caller makes one call after another, from one goroutine.
type Caller interface {
	// Call makes one call and returns when it is answered. A refusal is a *kms.Error.
	Call(ctx context.Context) error
	Close() error
}

// A Load says how many calls are made, and for how long.
type Load struct {
	Callers int           // in the open loop, how many calls can be in flight
	Rate    float64       // due calls per second, for the open loop; 0 is the closed loop
	WarmUp  time.Duration // calls that begin in it are not measured
	Time    time.Duration // is measured
	PID     int           // a process on this machine whose processor time to measure; 0 measures none

	// Progress, if not nil, is called once a second with the number of calls that have ended.
	Progress func(elapsed time.Duration, ended int64)

	// Sleep, if not nil, waits for the last milliseconds before a call of the open loop is due. The
	// default is exact to 0.1 ms; time.Sleep is exact to 1 ms.
	Sleep func(time.Duration)
}

// A Result is what a Load has measured.
type Result struct {
	Seconds float64 // how long it measured
	Calls   int64   // that succeeded
	Errors  map[string]int64
	Unsent  int64 // calls of the open loop that were due, but no caller was free for them in time

	latencies *hdrhistogram.Histogram // of the calls that succeeded, in ns

	// The processor time that the kernel has accounted to this process, and to the process Load.PID.
	ClientCPU, ServerCPU time.Duration

	FirstError error // one of the errors that are counted
}

// NoAnswer is the key in Errors of calls without an answer: the connection failed.
const NoAnswer = "NoAnswer"

// PerSecond returns how many calls succeeded in a second.
func (r Result) PerSecond() float64 { return float64(r.Calls) / r.Seconds }

// Latency returns the latency that a share of the successful calls did not exceed: 0.5 is the median,
// and 1 the maximum.
func (r Result) Latency(share float64) time.Duration {
	return time.Duration(r.latencies.ValueAtQuantile(100 * share))
}

// ended returns how many calls have ended, well or not.
func (r Result) ended() int64 {
	n := r.Calls
	for _, count := range r.Errors {
		n += count
	}
	return n
}

// PerCall returns a time of the processor for one call that has ended.
func (r Result) PerCall(cpu time.Duration) time.Duration {
	if n := r.ended(); n > 0 {
		return cpu / time.Duration(n)
	}
	return 0
}

// errorPause is how long a caller waits after a call that was not answered, so that a server that is
// gone costs no processor time.
const errorPause = 100 * time.Millisecond

// Run makes the calls. connect makes the caller with a number from 0. Run returns the error of
// connect, of ctx, or of reading the processor time. Errors of calls are counted in the Result.
func (l Load) Run(ctx context.Context, connect func(ctx context.Context, i int) (Caller, error)) (_ Result, err error) {
	callers := make([]Caller, 0, l.Callers)
	defer func() {
		for _, c := range callers {
			_ = c.Close() // nothing is sent any more
		}
	}()
	for i := range l.Callers {
		c, err := connect(ctx, i)
		if err != nil {
			return Result{}, err
		}
		callers = append(callers, c)
	}
	r := run{load: l, begin: time.Now().Add(l.WarmUp)}
	r.end = r.begin.Add(l.Time)
	return r.measure(ctx, callers)
}

// A run is a Load while it runs.
type run struct {
	load       Load
	begin, end time.Time // of the measured time
	ended      atomic.Int64
	taken      atomic.Int64 // due calls of the open loop that callers have taken
}

// measure runs the callers, and reads the accounts of the processor at the begin and the end.
func (r *run) measure(outer context.Context, callers []Caller) (Result, error) {
	ctx, cancel := context.WithCancel(outer)
	defer cancel()
	next := r.closedLoop
	if r.load.Rate > 0 {
		next = r.openLoop
	}
	var running sync.WaitGroup
	results := make([]Result, len(callers))
	for i, c := range callers {
		running.Go(func() { results[i] = r.serve(ctx, c, next) })
	}
	running.Go(func() { r.report(ctx) })
	total := Result{Errors: make(map[string]int64), latencies: newHistogram()}
	if err := r.account(ctx, &total); err != nil {
		cancel()
		running.Wait()
		return Result{}, err
	}
	running.Wait()
	for _, part := range results {
		total.add(part)
	}
	if r.load.Rate > 0 {
		total.Unsent = r.dueBefore(r.end) - r.dueBefore(r.begin) - total.ended()
	}
	return total, outer.Err()
}

// account waits until the measured time has passed, and records the processor time used in it.
func (r *run) account(ctx context.Context, total *Result) error {
	if err := wait(ctx, time.Until(r.begin)); err != nil {
		return err
	}
	began := time.Now()
	client, server, err := r.processorTimes()
	if err != nil {
		return err
	}
	if err := wait(ctx, time.Until(r.end)); err != nil {
		return err
	}
	clientEnd, serverEnd, err := r.processorTimes()
	total.ClientCPU, total.ServerCPU = clientEnd-client, serverEnd-server
	total.Seconds = time.Since(began).Seconds()
	return err
}

func (r *run) processorTimes() (client, server time.Duration, err error) {
	if client, err = ProcessorTime(0); err == nil && r.load.PID != 0 {
		server, err = ProcessorTime(r.load.PID)
	}
	return client, server, err
}

// wait waits for a time, or until ctx is done.
func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// report calls Progress until the end.
func (r *run) report(ctx context.Context) {
	if r.load.Progress == nil {
		return
	}
	began := r.begin.Add(-r.load.WarmUp)
	for time.Now().Before(r.end) {
		if wait(ctx, time.Second) != nil {
			return
		}
		r.load.Progress(time.Since(began), r.ended.Load())
	}
}

// serve makes calls until next says that there is none.
func (r *run) serve(ctx context.Context, c Caller, next func(context.Context) (began time.Time, ok bool)) Result {
	part := Result{Errors: make(map[string]int64), latencies: newHistogram()}
	for ctx.Err() == nil {
		began, ok := next(ctx)
		if !ok {
			break
		}
		err := c.Call(ctx)
		took := time.Since(began)
		r.ended.Add(1)
		code := codeOf(err)
		if !began.Before(r.begin) {
			part.record(took, code, err)
		}
		if code == NoAnswer {
			_ = wait(ctx, errorPause) // the loop ends with ctx
		}
	}
	return part
}

// closedLoop has a caller make its next call at once.
func (r *run) closedLoop(context.Context) (began time.Time, ok bool) {
	now := time.Now()
	return now, now.Before(r.end)
}

// openLoop has a caller take the next due call and wait until it is due. A call that was due before
// the caller was free begins when it was due.
func (r *run) openLoop(ctx context.Context) (began time.Time, ok bool) {
	began = r.due(r.taken.Add(1) - 1)
	if !began.Before(r.end) || !time.Now().Before(r.end) {
		return began, false
	}
	if wait(ctx, time.Until(began)-timerError) != nil {
		return began, false
	}
	for d := time.Until(began); d > 0; d = time.Until(began) { // a signal ends a sleep early
		sleep := r.load.Sleep
		if sleep == nil {
			sleep = exactSleep
		}
		sleep(d)
	}
	return began, true
}

// timerError exceeds the delay of a timer of Go in an idle program.
const timerError = 2 * time.Millisecond

// due returns when call n is due. A call is due every 1/Rate seconds, whether or not the calls before
// it were answered.
func (r *run) due(n int64) time.Time {
	return r.begin.Add(time.Duration(float64(n)/r.load.Rate*float64(time.Second)) - r.load.WarmUp)
}

// dueBefore returns how many calls are due before a time.
func (r *run) dueBefore(t time.Time) int64 {
	limit := int(r.load.Rate*(r.load.WarmUp+r.load.Time).Seconds()) + 2
	return int64(sort.Search(limit, func(n int) bool { return !r.due(int64(n)).Before(t) }))
}

// codeOf returns the API's code of an error, or NoAnswer, or "" for nil.
func codeOf(err error) string {
	var refusal *kms.Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &refusal):
		return refusal.Code
	}
	return NoAnswer
}

// record counts a call that ended after a time, with the code of its error.
func (r *Result) record(took time.Duration, code string, err error) {
	if err == nil {
		r.Calls++
		_ = r.latencies.RecordValue(min(int64(took), longest)) // it fails only above longest
		return
	}
	r.Errors[code]++
	if r.FirstError == nil {
		r.FirstError = err
	}
}

// add adds what one caller has measured.
func (r *Result) add(part Result) {
	r.Calls += part.Calls
	r.latencies.Merge(part.latencies)
	for code, n := range part.Errors {
		r.Errors[code] += n
	}
	if r.FirstError == nil {
		r.FirstError = part.FirstError
	}
}

// The latencies that a histogram tells apart, in nanoseconds. Longer ones, which only the
// open loop can have, count as the longest.
const (
	shortest = int64(time.Nanosecond)
	longest  = int64(2 * time.Minute)
)

// newHistogram returns a histogram that is exact to 1 %, in 32 KB.
func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(shortest, longest, 2) }

// ErrNoCall means that no call succeeded.
var ErrNoCall = errors.New("no call succeeded")

// Check returns ErrNoCall, with a reason, if no call succeeded.
func (r Result) Check() error {
	if r.Calls > 0 {
		return nil
	}
	if r.FirstError != nil {
		return fmt.Errorf("%w: %w", ErrNoCall, r.FirstError)
	}
	return fmt.Errorf("%w: none was due in the measured time (give a higher --rate or a longer --time)", ErrNoCall)
}
