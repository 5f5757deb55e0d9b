package gateway

import (
	"context"
	"sync"
	"time"
)

// Run does what has to be done from time to time, until ctx is done: it appends pending
// audit lines, reports suppressed refusals, records when access keys were used, and looks
// after the key pairs. One Run is needed while anything is served, and it has to end after
// that.
func (s *Server) Run(ctx context.Context) {
	var pairs sync.WaitGroup
	pairs.Go(func() { s.pairs.Run(ctx) })
	s.maintain(ctx)
	pairs.Wait()
}

// maintain flushes pending audit lines once a second, and everything once a minute.
func (s *Server) maintain(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			s.Flush()
			return
		case <-tick.C:
		}
		if n%60 == 0 {
			s.Flush()
		} else if s.journal.Pending() {
			s.journal.Flush()
		}
	}
}

// Flush does what Run does when it ends, for a Server that was not run.
func (s *Server) Flush() {
	s.journal.Flush()
	if s.config.Audit.Err() == nil { // a disk that is full for the log is full for the database
		s.callers.RecordUse(s.config.Store)
	}
	s.reportSuppressed()
}

// reportSuppressed writes the one line that stands for the refusals that have none. While
// the log cannot be written they are kept for later.
func (s *Server) reportSuppressed() {
	if s.config.Audit.Err() != nil {
		return
	}
	if n, last := s.unauthenticated.TakeSuppressed(); n > 0 {
		s.config.Audit.OfferSuppressed(s.config.Now().UTC(), n, last, func() { s.unauthenticated.CountAgain(n) })
	}
}

// CarryOutDeletions does what Run does from time to time: it deletes the keys whose time
// has come, and destroys key pairs that belong to no version.
func (s *Server) CarryOutDeletions(ctx context.Context) { s.pairs.CarryOutDeletions(ctx) }
