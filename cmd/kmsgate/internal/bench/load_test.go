package bench_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/bench"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// A fakeCaller calls a function.
type fakeCaller struct {
	call   func(ctx context.Context) error
	closed *int
}

func (c fakeCaller) Call(ctx context.Context) error { return c.call(ctx) }

func (c fakeCaller) Close() error {
	if c.closed != nil {
		*c.closed++
	}
	return nil
}

// connect returns a function that makes callers of one function.
func connect(call func(ctx context.Context) error) func(context.Context, int) (bench.Caller, error) {
	return func(context.Context, int) (bench.Caller, error) { return fakeCaller{call: call}, nil }
}

// sleeps returns a call that takes a time.
func sleeps(d time.Duration) func(context.Context) error {
	return func(context.Context) error { time.Sleep(d); return nil }
}

// run runs a load with a clock that jumps to the next event.
func run(t *testing.T, l bench.Load, call func(ctx context.Context) error) bench.Result {
	t.Helper()
	l.Sleep = time.Sleep
	r, err := l.Run(t.Context(), connect(call))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// isNear reports whether a latency is what it should be, as exactly as a histogram is.
func isNear(got, want time.Duration) bool {
	return max(got-want, want-got) <= want/100
}

// TestClosedLoop: each caller makes its next call at once, and calls that begin in the warm-up do not
// count.
func TestClosedLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		warm := func(context.Context) error {
			if time.Since(began) < 500*time.Millisecond {
				time.Sleep(50 * time.Millisecond)
			} else {
				time.Sleep(10 * time.Millisecond)
			}
			return nil
		}
		r := run(t, bench.Load{Callers: 4, WarmUp: 500 * time.Millisecond, Time: time.Second}, warm)
		if r.Calls != 400 || r.Unsent != 0 || len(r.Errors) != 0 || r.PerSecond() != 400 {
			t.Errorf("got %d calls, %d unsent, errors %v, %v per second, want 400 calls in a second", r.Calls, r.Unsent, r.Errors, r.PerSecond())
		}
		for _, share := range []float64{0.5, 0.99, 1} {
			if got := r.Latency(share); !isNear(got, 10*time.Millisecond) {
				t.Errorf("latency of %v: got %v, want 10ms", share, got)
			}
		}
	})
}

// TestLastCall: a call that begins in the measured time counts with its whole latency.
func TestLastCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, bench.Load{Callers: 1, Time: time.Second}, sleeps(10*time.Second))
		if r.Calls != 1 || !isNear(r.Latency(1), 10*time.Second) || r.Seconds != 1 {
			t.Errorf("got %d calls of %v in %v s, want one of 10s in 1 s", r.Calls, r.Latency(1), r.Seconds)
		}
	})
}

// TestStallIsNotHidden: in the open loop, the calls that are due while the server stalls count from when
// they were due. There is one caller, which could otherwise hide them.
func TestStallIsNotHidden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		stalled := false
		r := run(t, bench.Load{Callers: 1, Rate: 100, Time: 2 * time.Second}, func(context.Context) error {
			if !stalled && time.Since(began) >= 500*time.Millisecond {
				stalled = true
				time.Sleep(time.Second)
			}
			time.Sleep(time.Millisecond)
			return nil
		})
		if r.Calls != 200 || r.Unsent != 0 {
			t.Errorf("got %d calls, %d unsent, want 200 and 0", r.Calls, r.Unsent)
		}
		// Call k after the stalled one was due k * 10 ms into the stall, and is answered k ms after it.
		var want []time.Duration
		for k := range 112 {
			want = append(want, 1001*time.Millisecond-time.Duration(k)*9*time.Millisecond)
		}
		for len(want) < 200 {
			want = append(want, time.Millisecond)
		}
		slices.Sort(want)
		for _, share := range []float64{0.25, 0.5, 0.75, 0.95, 1} {
			if got, want := r.Latency(share), want[int(share*200)-1]; !isNear(got, want) {
				t.Errorf("latency of %v: got %v, want %v", share, got, want)
			}
		}
	})
}

// TestUnsent: calls for which no caller is free in time are counted, without those of the warm-up.
func TestUnsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, bench.Load{Callers: 1, Rate: 100, Time: time.Second}, sleeps(21*time.Millisecond))
		if r.Calls != 48 || r.Unsent != 52 {
			t.Errorf("got %d calls, %d unsent, want 48 and 52", r.Calls, r.Unsent)
		}
		r = run(t, bench.Load{Callers: 1, Rate: 100, WarmUp: time.Second, Time: time.Second}, sleeps(101*time.Millisecond))
		if r.Calls != 0 || r.Unsent != 100 {
			t.Errorf("the server never came out of the warm-up: got %d calls, %d unsent, want 0 and 100", r.Calls, r.Unsent)
		}
		if err := r.Check(); !errors.Is(err, bench.ErrNoCall) {
			t.Errorf("Check: got %v, want ErrNoCall", err)
		}
	})
}

// TestErrors: errors are counted by code. Their latencies are left out, and a caller whose connection
// failed pauses.
func TestErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		r := run(t, bench.Load{Callers: 1, Time: time.Second}, func(context.Context) error {
			n++
			switch {
			case n <= 5:
				return errors.New("the connection failed") // 100 ms each
			case n <= 8:
				time.Sleep(100 * time.Millisecond)
				return fmt.Errorf("calling: %w", kms.ErrThrottling)
			}
			time.Sleep(10 * time.Millisecond)
			return nil
		})
		if r.Calls != 20 || r.Errors[bench.NoAnswer] != 5 || r.Errors["Rejected.Throttling"] != 3 || len(r.Errors) != 2 {
			t.Errorf("got %d calls, errors %v, want 20, 5 times NoAnswer and 3 times Rejected.Throttling", r.Calls, r.Errors)
		}
		if !isNear(r.Latency(1), 10*time.Millisecond) || r.FirstError.Error() != "the connection failed" {
			t.Errorf("got the latency %v and the error %v, want 10ms and the first", r.Latency(1), r.FirstError)
		}
		if got := r.PerCall(28 * time.Second); got != time.Second {
			t.Errorf("PerCall of 28 s: got %v, want 1s for each of the 28 calls", got)
		}
		r = run(t, bench.Load{Callers: 1, Time: time.Second}, func(context.Context) error { time.Sleep(time.Second); return kms.ErrThrottling })
		if err := r.Check(); !errors.Is(err, bench.ErrNoCall) || !errors.Is(err, kms.ErrThrottling) {
			t.Errorf("Check: got %v, want ErrNoCall and the reason", err)
		}
	})
}

// TestEnds: a context that is done ends a load in both loops, and every caller is closed.
func TestEnds(t *testing.T) {
	for _, rate := range []float64{0, 100} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			closed := 0
			l := bench.Load{Callers: 3, Rate: rate, Time: time.Hour, Sleep: time.Sleep}
			_, err := l.Run(ctx, func(context.Context, int) (bench.Caller, error) {
				return fakeCaller{func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, &closed}, nil
			})
			if !errors.Is(err, context.DeadlineExceeded) || closed != 3 {
				t.Errorf("rate %v: got %v and %d closed callers, want DeadlineExceeded and 3", rate, err, closed)
			}
		})
	}
}

func TestConnectFails(t *testing.T) {
	closed := 0
	refused := errors.New("refused")
	_, err := bench.Load{Callers: 3, Time: time.Hour}.Run(t.Context(), func(_ context.Context, i int) (bench.Caller, error) {
		if i == 2 {
			return nil, refused
		}
		return fakeCaller{nil, &closed}, nil
	})
	if !errors.Is(err, refused) || closed != 2 {
		t.Errorf("got %v and %d closed callers, want the error of the third, and 2", err, closed)
	}
}

func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		l := bench.Load{Callers: 2, WarmUp: time.Second, Time: 2 * time.Second}
		l.Progress = func(elapsed time.Duration, ended int64) { got = append(got, fmt.Sprint(elapsed, " ", ended)) }
		run(t, l, sleeps(101*time.Millisecond))
		if want := []string{"1s 18", "2s 38", "3s 58"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// TestHistogram compares latencies of eight orders of magnitude with a sorted list of them.
func TestHistogram(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(1, 2))
		var mu sync.Mutex
		var all []time.Duration
		r := run(t, bench.Load{Callers: 8, Time: 30 * time.Minute}, func(context.Context) error {
			d := time.Microsecond
			mu.Lock()
			for d < 100*time.Second && random.IntN(4) > 0 {
				d += time.Duration(random.Int64N(int64(2 * d)))
			}
			all = append(all, d)
			mu.Unlock()
			time.Sleep(d)
			return nil
		})
		slices.Sort(all)
		if r.Calls != int64(len(all)) {
			t.Errorf("got %d calls, want %d", r.Calls, len(all))
		}
		for _, share := range []float64{0.1, 0.5, 0.9, 0.95, 0.99, 0.999, 1} {
			index := int(share*float64(len(all))+0.999999) - 1
			if got, want := r.Latency(share), min(all[index], 2*time.Minute); !isNear(got, want) {
				t.Errorf("latency of %v of %d calls: got %v, want %v", share, len(all), got, want)
			}
		}
	})
}

// TestToken: a test of the token counts by the part that is within the measured time.
func TestToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		counts := make(map[int]int)
		var mu sync.Mutex
		l := bench.Load{Callers: 3, WarmUp: 250 * time.Millisecond, Time: 1130 * time.Millisecond}
		r, err := l.RunToken(t.Context(), func(_ context.Context, count int) (time.Duration, error) {
			mu.Lock()
			counts[count]++
			mu.Unlock()
			time.Sleep(time.Duration(count) * 2 * time.Millisecond)
			return 2 * time.Millisecond, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := r.PerSecond(); got < 1499 || got > 1501 {
			t.Errorf("got %v signatures per second, want 1500: three callers, 2 ms each", got)
		}
		if !isNear(r.Latency(0.5), 2*time.Millisecond) || counts[50] == 0 || len(counts) != 2 {
			t.Errorf("got the median %v and tests %v, want 2ms, and tests of 50 signatures after one of 10", r.Latency(0.5), counts)
		}
	})
}

func TestTokenFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		_, err := bench.Load{Callers: 1, Time: time.Hour}.RunToken(t.Context(), func(context.Context, int) (time.Duration, error) {
			time.Sleep(time.Millisecond)
			if n++; n > 3 {
				return 0, kms.ErrUnavailable
			}
			return time.Millisecond, nil
		})
		if !errors.Is(err, kms.ErrUnavailable) {
			t.Errorf("got %v, want ErrUnavailable", err)
		}
		_, err = bench.Load{Callers: 1, Time: time.Hour}.RunToken(t.Context(), func(context.Context, int) (time.Duration, error) {
			return 0, kms.ErrUnavailable
		})
		if !errors.Is(err, kms.ErrUnavailable) {
			t.Errorf("at the first test: got %v, want ErrUnavailable", err)
		}
	})
}
