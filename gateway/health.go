package gateway

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// readyTimeout is how long the token may take to show that it can sign, and healthTime how long
// its answer counts.
const (
	readyTimeout = time.Second
	healthTime   = time.Second
	maxScrapes   = 2 // at once: each asks all records and connections
)

// MetricsHandler returns a handler for the operator's network. It reveals no secrets.
//
//   - /metrics serves the metrics, to two callers at once; others get 503.
//   - /ready answers 200 and "ok" if the gateway can sign, or 503 and the reason. It asks the token at
//     most once a second. After "ok" it has a line "warning: …" for everything that does not work or
//     soon will not, but does not keep the gateway from signing.
//   - /live answers 200 and "ok" while the process runs. It does not depend on the token,
//     because a restart of the gateway would not bring the token back.
func (s *Server) MetricsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry,
		promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes}))
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, r *http.Request) {
		if err := s.ready(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		writeOK(w)
		for _, warning := range warnings(s) {
			_, _ = fmt.Fprintf(w, "warning: %s\n", warning)
		}
	})
	mux.HandleFunc("GET /live", func(w http.ResponseWriter, _ *http.Request) { writeOK(w) })
	return mux
}

func writeOK(w http.ResponseWriter) {
	_, _ = w.Write([]byte("ok\n")) // an error means that the client has disconnected
}

// ready returns the reason why the gateway cannot sign for users, or nil if it can.
func (s *Server) ready(ctx context.Context) error {
	if err := s.config.Store.Tampered(); err != nil {
		return err
	}
	if err := s.config.Audit.Err(); err != nil {
		return err
	}
	if err := s.config.Audit.Scarce(); err != nil {
		return err
	}
	return s.health.ask(ctx)
}

// A healthCheck asks the token whether it can sign: once at a time, and at most once a second,
// because anyone on the operator's network can ask, and each check takes a signature. Create one
// with newHealthCheck. It is safe for concurrent use.
type healthCheck struct {
	check func(context.Context) error
	turn  chan struct{} // holds an element while somebody uses the fields below
	ended time.Time     // when the last check ended; zero before the first
	err   error         // its result
}

func newHealthCheck(check func(context.Context) error) *healthCheck {
	return &healthCheck{check: check, turn: make(chan struct{}, 1)}
}

// ask returns the result of a check that ended within the last second. If there is none, it
// makes one, which does not end with ctx.
func (h *healthCheck) ask(ctx context.Context) error {
	select {
	case h.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-h.turn }()
	if h.ended.IsZero() || time.Since(h.ended) >= healthTime {
		checking, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyTimeout)
		defer cancel()
		h.err = h.check(checking)
		h.ended = time.Now()
	}
	return h.err
}

// warnings returns a sentence for everything that an operator should know although the gateway can sign.
func warnings(s *Server) (all []string) {
	if failing := s.config.Store.Status().Failing; failing != nil {
		all = append(all, fmt.Sprintf("no change can be made: %v", failing))
	}
	for _, detail := range append([]func() string{func() string { return heldDeletions(s) }}, s.config.Details...) {
		if sentence := detail(); sentence != "" {
			all = append(all, sentence)
		}
	}
	return all
}

// A databaseWatch remembers what the log says about the database.
type databaseWatch struct {
	faults  int64
	failing bool
}

// look logs what has changed since the last look.
func (w *databaseWatch) look(s *Server) {
	status, logger := s.config.Store.Status(), s.config.Logger
	switch {
	case status.Failing != nil && !w.failing:
		logger.Error("the database cannot be written; the gateway signs, but makes no change until it can", "err", status.Failing)
	case status.Failing == nil && w.failing:
		logger.Info("the database can be written again")
	case status.Faults > w.faults && status.Failing == nil:
		logger.Warn("a commit of the database failed; its change was not made, and the database was rewritten", "err", status.LastFault)
	}
	w.faults, w.failing = status.Faults, status.Failing != nil
}
