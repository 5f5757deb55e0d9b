package gateway

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/kmsgate/kmsgate/gateway/front"
)

// connectionMetrics are about the connections to all listeners.
func connectionMetrics(s *Server) []prometheus.Collector {
	closed := func(reason string, number func(front.Counts) int) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "kmsgate_connections_closed_total",
			Help: "Connections that the gateway closed early, by reason. evicted: the oldest unauthenticated one, to make room. " +
				"full, source_full: a new one, at a limit. handshake: the TLS handshake failed. " +
				"busy: no slot for the handshake. large_header: too many others were sending large headers. " +
				"records: too many small TLS records.",
			ConstLabels: prometheus.Labels{"reason": reason},
		}, func() float64 { return float64(number(s.connections.Counts())) })
	}
	return []prometheus.Collector{
		gauge("kmsgate_connections_open", "Connections that are open, to all listeners.",
			func() float64 { return float64(s.connections.Counts().Open) }),
		gauge("kmsgate_connections_unauthenticated", "Open connections on which no caller has authenticated.",
			func() float64 { return float64(s.connections.Counts().Unauthenticated) }),
		closed("evicted", func(c front.Counts) int { return c.Evicted }),
		closed("full", func(c front.Counts) int { return c.Full }),
		closed("source_full", func(c front.Counts) int { return c.SourceFull }),
		closed("handshake", func(c front.Counts) int { return c.Handshakes }),
		closed("busy", func(c front.Counts) int { return c.Busy }),
		closed("large_header", func(c front.Counts) int { return c.LargeHeaders }),
		closed("records", func(c front.Counts) int { return c.Records }),
		counter("kmsgate_malformed_requests_total",
			"Requests that are not HTTP or have too large a header. They have no line in the audit log.",
			func() float64 { return float64(s.connections.Counts().Malformed) }),
	}
}

// connectionPause is how many seconds pass between two lines of the log about connections.
const connectionPause = 60

// A connectionWatch remembers what the log says about connections.
type connectionWatch struct {
	reported front.Counts
	pause    int // seconds until the next line
}

// look logs that connections were closed because there were too many, or because others took the
// cores or the memory for handshakes and large headers, at most once a minute. It must be called
// once a second.
func (w *connectionWatch) look(s *Server) {
	if w.pause > 0 {
		w.pause--
		return
	}
	counts := s.connections.Counts()
	evicted := counts.Evicted - w.reported.Evicted
	refused := counts.Full + counts.SourceFull - w.reported.Full - w.reported.SourceFull
	busy := counts.Busy + counts.LargeHeaders + counts.Records - w.reported.Busy - w.reported.LargeHeaders - w.reported.Records
	if evicted+refused+busy == 0 {
		return
	}
	s.config.Logger.Warn("there were too many connections: the gateway closed the oldest unauthenticated ones, "+
		"or new ones (if these are your programs, raise max_connections and max_connections_per_source)",
		"closed", evicted, "refused", refused, "busy", busy, "open", counts.Open, "unauthenticated", counts.Unauthenticated)
	w.reported, w.pause = counts, connectionPause
}
