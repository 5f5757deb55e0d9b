package gateway

import (
	"context"
	"fmt"
	"time"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/store"
)

// maxHeldNonces is how many nonces of changes are kept at least while the clock cannot be believed. They
// take some 50 MB.
const maxHeldNonces = 100_000

// forgetNonces returns the time before which the nonces of changes can be forgotten: those of requests
// that have expired. While the clock cannot be believed, all are kept: once they were forgotten, no change
// with an earlier time stamp would be accepted.
func forgetNonces(s *Server) time.Time {
	if s.clock.Problem() != "" && s.config.Store.Now().Nonces().Len() < maxHeldNonces {
		return time.Time{}
	}
	return s.clock.Now()
}

// A clockWatch remembers what the log and the database say about the clock.
type clockWatch struct {
	problem string
	next    time.Duration // in time seen: when the time is recorded again
}

// look logs and records that the clock has jumped, or can be believed again. Once an hour,
// and the first time, it records the time.
func (w *clockWatch) look(s *Server) {
	problem := s.clock.Problem()
	switch {
	case problem == w.problem:
		if s.clock.Seen() < w.next {
			return
		}
	case problem != "":
		s.config.Logger.Warn("this machine's clock cannot be believed; no key is deleted until it has agreed for a day with the "+
			"time that passes, or until an operator confirms it with kmsgate clock confirm", "reason", problem)
	default:
		s.config.Logger.Info("this machine's clock is believed again")
	}
	w.problem, w.next = problem, s.clock.Seen()+time.Hour
	recordClock(s)
}

// recordClock writes the time and whether it can be believed to the database. It logs a failure.
func recordClock(s *Server) {
	err := s.config.Store.Update(func(tx *store.Tx) error {
		c := tx.Clock()
		c.Last, c.Problem = s.clock.Now().UTC(), s.clock.Problem()
		return tx.SetClock(c)
	})
	if err != nil {
		s.config.Logger.Warn("recording the time failed; after a restart, keys may be deleted later", "err", err)
	}
}

// heldDeletions returns a sentence for /ready if keys are not deleted because of the clock.
func heldDeletions(s *Server) string {
	problem := s.clock.Problem()
	if problem == "" {
		return ""
	}
	due := s.pairs.Due()
	if due == 0 {
		return ""
	}
	return fmt.Sprintf("%d keys are due but not deleted, because this machine's clock cannot be believed: %s "+
		"(check it with kmsgate clock show, then run kmsgate clock confirm)", due, problem)
}

func describeClock(_ context.Context, c *call, _ *kms.NoRequest) (*kms.DescribeClockResponse, error) {
	if err := c.confirm(); err != nil {
		return nil, err
	}
	s := c.server
	problem := s.clock.Problem()
	return &kms.DescribeClockResponse{Clock: kms.ClockState{
		Time: kms.FormatTime(s.clock.Now()), Believed: problem == "", Reason: problem, KeysDue: s.pairs.Due(),
	}}, nil
}

// confirmClock makes the gateway believe the clock. Keys whose deletion is due are then deleted.
func confirmClock(_ context.Context, c *call, _ *kms.NoRequest) (*kms.EmptyResponse, error) {
	err := c.update(func(tx *store.Tx) error {
		// This also resets NonceFloor: a clock that was ahead can have set it to a time in the future.
		return tx.SetClock(store.ClockState{Last: c.server.clock.Now().UTC()})
	})
	if err == nil {
		c.server.clock.Confirm()
	}
	return emptyResponse(err)
}
