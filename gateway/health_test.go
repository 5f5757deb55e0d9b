package gateway_test

import (
	"context"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

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

// A slowCollector waits in each scrape until it is released.
type slowCollector struct{ begun, release chan struct{} }

func (slowCollector) Describe(chan<- *prometheus.Desc) {}

func (c slowCollector) Collect(chan<- prometheus.Metric) {
	c.begun <- struct{}{}
	<-c.release
}

// TestScrapes asks for the metrics while two others do. The third gets 503, and metrics afterwards.
func TestScrapes(t *testing.T) {
	t.Parallel()
	c := slowCollector{make(chan struct{}), make(chan struct{})}
	b := newBench(t, func(cfg *gateway.Config) { cfg.Collectors = []prometheus.Collector{c} })
	handler := b.server.MetricsHandler()
	scrape := func() int {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		return w.Code
	}
	statuses := make(chan int)
	for range 2 {
		go func() { statuses <- scrape() }()
		<-c.begun
	}
	if got := scrape(); got != 503 {
		t.Errorf("a third scrape: got %d, want 503", got)
	}
	close(c.release)
	for range 2 {
		if got := <-statuses; got != 200 {
			t.Errorf("a scrape: got %d, want 200", got)
		}
	}
	go func() { statuses <- scrape() }()
	<-c.begun
	if got := <-statuses; got != 200 {
		t.Errorf("afterwards: got %d, want 200", got)
	}
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
