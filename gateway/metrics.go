package gateway

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// metrics are the gateway's metrics for Prometheus. Callers cannot choose the values of
// labels: the label of an action that does not exist is "unknown".
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	refused  *prometheus.CounterVec
}

// Why a request was refused before its caller was authenticated: the values of a label.
const (
	refusedSlots = "slots" // all slots of the gate were taken
	refusedBytes = "bytes" // all bytes for large requests were taken
)

func newMetrics(s *Server) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kmsgate_requests_total",
			Help: "Requests by door, action and code of the API's error. The code is OK if there was no error.",
		}, []string{"door", "action", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "kmsgate_request_duration_seconds",
			Help:    "Time from a request's arrival to its audit line on disk, by action.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 25},
		}, []string{"action"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kmsgate_early_refusals_total",
			Help: "Requests refused before their callers were authenticated, because others had taken all slots or bytes.",
		}, []string{"reason"}),
	}
	for _, reason := range []string{refusedSlots, refusedBytes} {
		m.refused.WithLabelValues(reason) // shows zero until the first one
	}
	m.registry.MustRegister(m.requests, m.duration, m.refused,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.registry.MustRegister(diskMetrics(s)...)
	m.registry.MustRegister(keyMetrics(s)...)
	m.registry.MustRegister(requestMetrics(s)...)
	m.registry.MustRegister(connectionMetrics(s)...)
	m.registry.MustRegister(s.config.Collectors...)
	return m
}

// diskMetrics are about the audit log and the database.
func diskMetrics(s *Server) []prometheus.Collector {
	return []prometheus.Collector{
		flag("kmsgate_audit_failing", "1 while the audit log cannot be written; the gateway then signs and changes nothing.",
			func() bool { return s.config.Audit.Err() != nil }),
		gauge("kmsgate_audit_free_bytes", "Free bytes on the file system of the audit log, -1 if unknown.",
			func() float64 {
				free, err := s.config.Audit.Free()
				if err != nil {
					return -1
				}
				return float64(free)
			}),
		flag("kmsgate_audit_reserve_used",
			"1 while the disk of the audit log is so full that the gateway serves only local administrators.",
			func() bool { return s.config.Audit.Scarce() != nil }),
		gauge("kmsgate_audit_lines", "The number of the audit log's last line.",
			func() float64 { return float64(s.config.Audit.Head().Seq) }),
		gauge("kmsgate_audit_oldest_wait_seconds",
			"How long the oldest line that is not on stable storage yet has been waiting for the disk.",
			func() float64 { return s.config.Audit.OldestWait().Seconds() }),
		flag("kmsgate_database_failing",
			"1 while the database cannot be written; the gateway then signs, but makes no change.",
			func() bool { return s.config.Store.Status().Failing != nil }),
		gauge("kmsgate_database_oldest_wait_seconds", "How long the oldest change has been waiting for the disk.",
			func() float64 { return s.config.Store.Status().Waiting.Seconds() }),
		counter("kmsgate_database_faults_total", "Commits that failed. The gateway rewrites the database after each.",
			func() float64 { return float64(s.config.Store.Status().Faults) }),
	}
}

// keyMetrics are about keys and what limits their lives.
func keyMetrics(s *Server) []prometheus.Collector {
	return []prometheus.Collector{
		gauge("kmsgate_key_versions_missing", "Key versions whose private key was missing at the last check.",
			func() float64 {
				missing, _ := s.pairs.Health()
				return float64(missing)
			}),
		gauge("kmsgate_key_versions_failing",
			"Key versions that did not sign, or signed for another public key, at the last test.",
			func() float64 {
				_, failing := s.pairs.Health()
				return float64(failing)
			}),
		gauge("kmsgate_client_keys_first_expiry_seconds",
			"When the first of the valid client keys expires, in seconds since 1970; 0 if there is none.", s.firstExpiry),
		flag("kmsgate_clock_believed",
			"1 if this machine's clock agrees with the time that passes; otherwise no key is deleted.",
			func() bool { return s.clock.Problem() == "" }),
	}
}

// requestMetrics are about what requests leave in memory.
func requestMetrics(s *Server) []prometheus.Collector {
	return []prometheus.Collector{
		gauge("kmsgate_nonces", "Nonces that are remembered.", func() float64 { return float64(s.callers.Nonces().Total) }),
		gauge("kmsgate_nonces_max", "The number of nonces from which the access keys with the most nonces are refused.",
			func() float64 { return float64(s.callers.Nonces().Max) }),
		counter("kmsgate_nonces_refused_total", "Requests refused because too many nonces are remembered.",
			func() float64 { return float64(s.callers.Nonces().Refusals) }),
		gauge("kmsgate_native_body_bytes", "Bytes reserved for large bodies of native requests.", s.bodies.Bytes),
		gauge("kmsgate_rpc_request_bytes", "Bytes reserved for large requests of the RPC API from known sources.",
			s.knownBodies.Bytes),
		gauge("kmsgate_rpc_stranger_bytes", "Bytes reserved for large requests of the RPC API from unknown sources.",
			s.strangerBodies.Bytes),
	}
}

// firstExpiry returns when the first of the valid client keys expires, in seconds since
// 1970, or 0 if there is none.
func (s *Server) firstExpiry() (seconds float64) {
	for k := range s.config.Store.Now().ClientKeys().All() {
		expiry := float64(k.NotAfter.Unix())
		if identity.IsInForce(k, s.config.Now()) && (seconds == 0 || expiry < seconds) {
			seconds = expiry
		}
	}
	return seconds
}

func gauge(name, help string, value func() float64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
}

// flag is a gauge that is 1 or 0.
func flag(name, help string, value func() bool) prometheus.Collector {
	return gauge(name, help, func() float64 {
		if value() {
			return 1
		}
		return 0
	})
}

func counter(name, help string, value func() float64) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, value)
}

func (m *metrics) count(c *call, apiErr *kms.Error) {
	action, code := c.action, "OK"
	o, ok := kms.Find(action)
	if action = o.Name; !ok {
		action = "unknown"
	}
	if apiErr != nil {
		code = apiErr.Code
	}
	m.requests.WithLabelValues(string(c.door.name()), action, code).Inc()
	m.duration.WithLabelValues(action).Observe(c.entry.DurationNanoseconds.Seconds())
}

// refuse counts a request that was refused before its caller was authenticated.
func (m *metrics) refuse(reason string) { m.refused.WithLabelValues(reason).Inc() }
