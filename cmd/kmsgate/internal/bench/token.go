package bench

import (
	"context"
	"errors"
	"sync"
	"time"
)

// A TokenTest has a gateway sign count times, one signature after the other, and returns how long the
// median of them took. It is TestKeyVersion of the admin door: the signatures go from the gateway's
// process to the token, without a request each.
type TokenTest func(ctx context.Context, count int) (median time.Duration, err error)

// The signatures of one test: at most maxTest, as the gateway allows, and about as many as fit into
// testTime, so that what the request itself costs is little.
const (
	maxTest  = 100
	testTime = 100 * time.Millisecond
)

// RunToken has the callers test the token, in the closed loop. A test that lies partly outside the
// measured time counts in proportion. In the Result, Calls are signatures; their latencies are medians of tests.
// It returns the first error of a test.
func (l Load) RunToken(ctx context.Context, test TokenTest) (Result, error) {
	median, err := test(ctx, min(10, maxTest))
	if err != nil {
		return Result{}, err
	}
	count := int(min(max(testTime/max(median, 1), 1), maxTest))
	r := run{load: l, begin: time.Now().Add(l.WarmUp)}
	r.end = r.begin.Add(l.Time)
	return r.measureToken(ctx, func(ctx context.Context) (int, time.Duration, error) {
		median, err := test(ctx, count)
		return count, median, err
	})
}

func (r *run) measureToken(ctx context.Context, test func(ctx context.Context) (int, time.Duration, error)) (Result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	total := Result{latencies: newHistogram()}
	var mu sync.Mutex // guards total.latencies and signatures
	var signatures float64
	var running sync.WaitGroup
	for range r.load.Callers {
		running.Go(func() {
			for began := time.Now(); ctx.Err() == nil && began.Before(r.end); began = time.Now() {
				n, median, err := test(ctx)
				if err != nil {
					cancel(err)
					return
				}
				share := r.share(began, time.Now())
				r.ended.Add(int64(n))
				mu.Lock()
				signatures += share * float64(n)
				if share > 0 {
					_ = total.latencies.RecordValues(min(int64(median), longest), int64(n)) // it fails only above longest
				}
				mu.Unlock()
			}
		})
	}
	running.Go(func() { r.report(ctx) })
	err := r.account(ctx, &total)
	if err != nil {
		cancel(err)
	}
	running.Wait()
	total.Calls = int64(signatures)
	if errors.Is(err, context.Canceled) || err == nil {
		err = context.Cause(ctx)
	}
	return total, err
}

// share returns which part of a time is within the measured time.
func (r *run) share(began, ended time.Time) float64 {
	first, last := began, ended
	if first.Before(r.begin) {
		first = r.begin
	}
	if last.After(r.end) {
		last = r.end
	}
	if !last.After(first) {
		return 0
	}
	return float64(last.Sub(first)) / float64(ended.Sub(began))
}
