package gateway_test

import (
	"context"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
)

// A countingBackend counts the calls of Health, which take a while.
type countingBackend struct {
	*hsmtest.Fake
	calls atomic.Int32
}

func (c *countingBackend) Health(ctx context.Context) error {
	c.calls.Add(1)
	time.Sleep(100 * time.Millisecond) // on the bubble's clock
	return c.Fake.Health(ctx)
}

// TestReadyAsksOnce has many ask at once whether the gateway can sign. The token is asked once, and not
// again within a second. That the first to ask leaves changes nothing for the others.
func TestReadyAsksOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, dir: t.TempDir(), backend: new(hsmtest.Fake)}
		b.clock.now = time.Now()
		backend := &countingBackend{Fake: b.backend}
		b.open(func(c *gateway.Config) { c.Backend = hsm.Route{Token: backend, Sealed: b.backend, Logger: quiet} })
		t.Cleanup(b.shut)
		asked := 0
		ask := func(want int) {
			t.Helper()
			var all sync.WaitGroup
			first, leave := context.WithCancel(t.Context())
			r := httptest.NewRequest("GET", "/ready", nil).WithContext(first)
			all.Go(func() { b.server.MetricsHandler().ServeHTTP(httptest.NewRecorder(), r) })
			synctest.Wait()
			leave()
			for range 50 {
				all.Go(func() {
					if status, text := b.observe("/ready"); status != want {
						t.Errorf("/ready: got %d %q, want %d", status, text, want)
					}
				})
			}
			all.Wait()
			if asked++; int(backend.calls.Load()) != asked {
				t.Errorf("the token was asked %d times, want %d", backend.calls.Load(), asked)
			}
		}
		ask(200)
		b.backend.Fail(hsm.ErrUnavailable)
		if status, _ := b.observe("/ready"); status != 200 || int(backend.calls.Load()) != asked {
			t.Errorf("within a second: got %d, the token was asked %d times, want 200, %d", status, backend.calls.Load(), asked)
		}
		time.Sleep(time.Second)
		ask(503)
		b.backend.Fail(nil)
		time.Sleep(time.Second)
		ask(200)
	})
}
