package gateway

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// metrics are what the gateway tells Prometheus. No label's values are a
// caller's to choose: an action that there is not is "unknown".
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

func newMetrics(s *Server) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kmsgate_requests_total",
			Help: "Requests by door, action and code of the API's error, OK for none."}, []string{"door", "action", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "kmsgate_request_duration_seconds",
			Help: "Time from a request's arrival to its audit line on disk, by action.", Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 25}}, []string{"action"}),
	}
	m.registry.MustRegister(m.requests, m.duration, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		gauge("kmsgate_audit_failing", "1 while the audit log cannot be written, so that nothing is signed or changed.", func() float64 {
			if s.config.Audit.Err() != nil {
				return 1
			}
			return 0
		}),
		gauge("kmsgate_audit_free_bytes", "Bytes that are free for the audit log, -1 if that is not known.", func() float64 {
			free, err := s.config.Audit.Free()
			if err != nil {
				return -1
			}
			return float64(free)
		}),
		gauge("kmsgate_key_versions_missing", "Key versions whose private key was not there when it was looked for last.", func() float64 {
			missing, _ := s.pairs.Health()
			return float64(missing)
		}),
		gauge("kmsgate_key_versions_failing", "Key versions that did not sign, or signed for another public key, when they were tried last.", func() float64 {
			_, failing := s.pairs.Health()
			return float64(failing)
		}),
		gauge("kmsgate_client_keys_first_expiry_seconds", "When the first of the client keys that are valid expires, in seconds since 1970; 0 if there is none.", s.firstExpiry),
		gauge("kmsgate_native_body_bytes", "Bytes of large bodies of native requests that are being sent or used.", s.bodies.Bytes),
		gauge("kmsgate_audit_lines", "The number of the audit log's last line.", func() float64 { return float64(s.config.Audit.Head().Seq) }),
	)
	m.registry.MustRegister(s.config.Collectors...)
	return m
}

// firstExpiry gives when the first of the client keys that are valid expires.
func (s *Server) firstExpiry() (seconds float64) {
	for k := range s.config.Store.Now().ClientKeys().All() {
		if at := float64(k.NotAfter.Unix()); identity.IsInForce(k, s.config.Now()) && (seconds == 0 || at < seconds) {
			seconds = at
		}
	}
	return seconds
}

func gauge(name, help string, value func() float64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
}

func (m *metrics) count(c *call, api *kms.Error) {
	action, code := c.action, "OK"
	if _, ok := kms.Find(action); !ok {
		action = "unknown"
	}
	if api != nil {
		code = api.Code
	}
	m.requests.WithLabelValues(string(c.door.name()), action, code).Inc()
	m.duration.WithLabelValues(action).Observe(c.entry.Duration.Seconds())
}

// readyTime is how long the token may take to show that it can sign.
const readyTime = time.Second

// MetricsHandler serves the metrics at /metrics; at /ready whether the gateway
// can sign: 200 and "ok", or 503 and why not; and at /live that it runs, which
// does not depend on the token: a restart would not bring that back. It tells
// nothing secret, and is for the operator's network only.
func (s *Server) MetricsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, r *http.Request) {
		if err := s.ready(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		writeOK(w)
	})
	mux.HandleFunc("GET /live", func(w http.ResponseWriter, _ *http.Request) { writeOK(w) })
	return mux
}

func writeOK(w http.ResponseWriter) {
	_, _ = w.Write([]byte("ok\n")) // whoever asked is gone if this fails
}

func (s *Server) ready(ctx context.Context) error {
	if err := s.config.Audit.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	return s.config.Backend.Health(ctx)
}
