package token

import (
	"errors"
	"fmt"
	"sync"

	"github.com/ThalesGroup/crypto11"

	"github.com/kmsgate/kmsgate/hsm/token/internal/p11"
)

// A connection is one login to the token, from initializing the module to finalizing it. It
// is used until it is lost and then closed. None of its handles survives it.
type connection struct {
	token   *Token
	c11     *crypto11.Context // nil if crypto11 could not open the module
	slot    uint
	handles *handles      // of the signing keys
	audit   *handles      // of the audit log's key
	counter storedCounter // only the worker for changes uses it once that runs
	copies  sessionCopies
	sealing sealingKey
	canary  canaryKey

	noRandom bool // the token reports that it has no random number generator

	workers  sync.WaitGroup
	lost     chan struct{}
	loseOnce sync.Once
	lossErr  error // why; set before lost is closed
}

// lose marks the connection as lost. Only the first reason is kept.
func (c *connection) lose(reason error) {
	c.loseOnce.Do(func() {
		c.lossErr = reason
		close(c.lost)
	})
}

// lossReason returns why the connection is lost, or nil if it is not lost.
func (c *connection) lossReason() error {
	select {
	case <-c.lost:
		return c.lossErr
	default:
		return nil
	}
}

// close finalizes the module. No call may be in flight.
func (c *connection) close() {
	c.token.finalize(func() {
		// crypto11 closes its sessions and calls C_Finalize, which ends the
		// workers' sessions too. Its Close never returns an error but may panic.
		if c.c11 != nil {
			_ = c.token.module.Call("C_Finalize by crypto11", c.c11.Close)
		}
	})
}

// finalize finalizes the module. It calls finalizeOthers, if that is not nil, to finalize other
// bindings first.
func (t *Token) finalize(finalizeOthers func()) {
	if err := t.module.Finalize(finalizeOthers); err != nil {
		t.log.Warn("cleaning up after C_Finalize failed", "module", t.cfg.Module, "err", err)
	}
}

// work does jobs until the connection is lost. It owns s.
func (c *connection) work(s *session, q *queue) {
	for s != nil {
		j := q.next(c.lost)
		if j == nil {
			return
		}
		s = c.execute(s, j, q)
	}
}

// maxRefusals is how often a working token may reject a job before the job fails.
const maxRefusals = 2

// execute does one job. It returns the session for the next job, or nil if the
// connection is lost.
func (c *connection) execute(s *session, j *job, q *queue) *session {
	for refusals := 1; ; refusals++ {
		if err := j.ctx.Err(); err != nil {
			j.done <- waitError(err)
			return s
		}
		err := p11.Protect(func() error { return j.do(s) })
		if !p11.IsError(err) {
			j.done <- err
			return s
		}
		// An operation may still be active in the session, which would make the next job
		// fail. Also, the session itself may be the cause of the error.
		lostErr := s.p11.Renew()
		if lostErr == nil {
			lostErr = p11.Protect(s.checkAlive)
		}
		if lostErr == nil {
			lostErr = c.lossReason()
		}
		if lostErr != nil {
			reason := fmt.Errorf("%w; then %w", err, lostErr)
			c.lose(reason)
			q.handBack(j, reason)
			return nil
		}
		if refusals == maxRefusals {
			j.done <- fmt.Errorf("%w: %w", j.refusal, err)
			return s
		}
	}
}

// errNotUnsealed: the token works but twice failed to unseal a secret.
var errNotUnsealed = errors.New("unsealing failed: another token sealed the secret, or it was changed")
