package token

import (
	"errors"
	"fmt"
	"sync"

	"github.com/ThalesGroup/crypto11"

	"github.com/kmsgate/kmsgate/hsm/token/internal/p11"
)

// A connection is one logged-in use of the module. It is used until it is lost
// and then closed; nothing in it survives.
type connection struct {
	token   *Token
	c11     *crypto11.Context // nil if it could not open the module
	slot    uint
	handles handles
	copies  sessionCopies
	sealing sealingKey
	canary  canaryKey

	noRandom bool // the token says that it has no random number generator

	workers  sync.WaitGroup
	lost     chan struct{}
	loseOnce sync.Once
	lossErr  error // why; set before lost is closed
}

// lose marks the connection as lost; the first reason stays.
func (c *connection) lose(reason error) {
	c.loseOnce.Do(func() {
		c.lossErr = reason
		close(c.lost)
	})
}

// lossReason returns why the connection is lost; nil if it is not.
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
		// workers' sessions too. Its Close never returns an error, but may panic.
		if c.c11 != nil {
			_ = c.token.module.Call("C_Finalize by crypto11", c.c11.Close)
		}
	})
}

// finalize finalizes the module, for this package and for what finalizes it in others.
func (t *Token) finalize(others func()) {
	if err := t.module.Finalize(others); err != nil {
		t.log.Warn("after C_Finalize", "module", t.cfg.Module, "reason", err)
	}
}

// work does jobs until the connection is lost. It owns s.
func (c *connection) work(s *session, q *queue) {
	for s != nil {
		j := q.next(c.lost)
		if j == nil {
			return
		}
		s = c.handle(s, j, q)
	}
}

// maxRefusals is how often a job is begun on a token that works.
const maxRefusals = 2

// handle does one job and returns the session to go on with, or nil if the
// connection is lost.
func (c *connection) handle(s *session, j *job, q *queue) *session {
	for refusals := 1; ; refusals++ {
		if err := j.ctx.Err(); err != nil {
			j.done <- waitError(err)
			return s
		}
		err := p11.Safely(func() error { return j.do(s) })
		if !p11.IsError(err) {
			j.done <- err
			return s
		}
		// The session may have an operation half done in it, which the next
		// job would trip over; and the error may be the session's own.
		lostErr := s.p11.Renew()
		if lostErr == nil {
			lostErr = p11.Safely(s.checkAlive)
		}
		if lostErr == nil {
			lostErr = c.lossReason()
		}
		if lostErr != nil {
			reason := fmt.Errorf("%w, and then %w", err, lostErr)
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

// errNotUnsealed: the token works but did not unseal a secret, twice.
var errNotUnsealed = errors.New("the secret does not unseal: it is another token's, or was changed")
