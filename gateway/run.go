package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

// Run does the periodic work until ctx is done: it appends pending audit lines, reports
// suppressed refusals, records when access keys were used, and looks after the key pairs.
// Exactly one Run must be active while the Server serves requests, and it must end after
// they have ended.
func (s *Server) Run(ctx context.Context) {
	var pairs sync.WaitGroup
	pairs.Go(func() { s.pairs.Run(ctx) })
	s.maintain(ctx)
	pairs.Wait()
}

// maintain appends pending audit lines once a second and flushes everything once a minute.
func (s *Server) maintain(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var database databaseWatch
	var hand clockWatch
	var connections connectionWatch
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			s.Flush()
			return
		case <-tick.C:
		}
		database.look(s)
		hand.look(s)
		connections.look(s)
		if n%60 == 0 {
			flush(s)
		} else if s.journal.Pending() {
			s.journal.Flush()
		}
	}
}

// Flush does the work that Run does at its end. It is for a Server without a Run.
func (s *Server) Flush() {
	flush(s)
	recordClock(s)
}

// flush writes what waits to be written.
func flush(s *Server) {
	s.journal.Flush()
	if s.config.Audit.Err() == nil { // if the disk is too full for the log, it is too full for the database
		s.callers.RecordUse(s.config.Store)
		s.pairs.RecordUse()
	}
	s.reportSuppressed()
}

// reportSuppressed writes an audit line for the refusals of each caller and code that have none,
// and one for those of all callers who could not authenticate. While the audit log cannot be
// written, or only for administrators, it leaves them for later.
func (s *Server) reportSuppressed() {
	log := s.config.Audit
	if log.Err() != nil || log.Scarce() != nil {
		return
	}
	for _, c := range s.refusals.TakeCounted() {
		log.OfferSuppressed(audit.Event{Time: s.config.Now().UTC(), Source: c.Source, Suppressed: c.N,
			Principal: c.Principal, Code: c.Code, First: c.First, Last: c.Last}, func() { s.refusals.CountAgain(c) })
	}
}

// CarryOutDeletions deletes the keys whose deletion is due, and destroys key pairs that
// belong to no version. Run does so periodically.
func (s *Server) CarryOutDeletions(ctx context.Context) { s.pairs.CarryOutDeletions(ctx) }
