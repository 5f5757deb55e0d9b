package token

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/ThalesGroup/crypto11"
	"golang.org/x/sys/unix"
)

// A connection is one logged-in use of the module. It is used until it is lost
// and then closed; nothing in it survives.
type connection struct {
	token   *Token
	c11     *crypto11.Context // nil if it could not open the module
	slot    uint
	handles handles
	copies  *copies
	sealing sealingKey
	canary  canaryKey

	noRandom bool // the token says that it has no random number generator

	sessions   sync.Map // the handles of those that are open: pkcs11.SessionHandle → true
	connecting *doing

	// Where the module has an instance for each binding, calls are made one after
	// the other: p11-kit's client, which is of that kind, waits for ever if its
	// server is killed while two are under way (0.24.1, rpc_socket_read), and its
	// server does them one after the other anyway.
	oneAtATime bool
	turn       sync.Mutex // held during a call, then

	workers sync.WaitGroup
	lost    chan struct{}
	lose1   sync.Once
	why     error // set before lost is closed
}

// lose marks the connection as lost; the first reason stays.
func (c *connection) lose(why error) {
	c.lose1.Do(func() {
		c.why = why
		close(c.lost)
	})
}

// reason is why the connection was lost. It may be asked once lost is closed.
func (c *connection) reason() error { return c.why }

// givenUp gives why the connection is lost, if it is.
func (c *connection) givenUp() error {
	select {
	case <-c.lost:
		return c.reason()
	default:
		return nil
	}
}

// close finalizes the module. No call may be in flight.
func (c *connection) close() {
	c.token.finalize(func() {
		// crypto11 closes its sessions and calls C_Finalize, which ends the
		// workers' sessions too. Its Close never gives an error, but may panic.
		if c.c11 != nil {
			_ = safely(c.c11.Close)
		}
		// An error says that this was the end of our binding's use, too.
		_ = c.token.p11.Finalize()
	})
	keepStandardInput()
}

// keepStandardInput opens descriptor 0 again if a module has closed it, as
// opencryptoki's does (3.8.1) when it does not find a TPM. The next file that this
// process opens would be 0, the module would close that, and it may be the database.
func keepStandardInput() {
	if _, err := unix.FcntlInt(0, unix.F_GETFD, 0); err == unix.EBADF {
		_, _ = unix.Open(os.DevNull, unix.O_RDONLY, 0) // the lowest that is free: 0
	}
}

// work does jobs until the connection is lost. It owns s.
func (c *connection) work(s *session, q *queue) {
	for s != nil {
		j := q.next(c.lost)
		if j == nil {
			return
		}
		c.during("a worker's call", func(d *doing) {
			s.doing = d
			s = c.handle(s, j, q)
		})
	}
}

// during does f, which calls into the module.
func (c *connection) during(what string, f func(*doing)) {
	if c.oneAtATime {
		c.turn.Lock()
		defer c.turn.Unlock()
	}
	c.token.calls.during(what, f)
}

// maxRefusals is how often a job is begun on a token that is well.
const maxRefusals = 2

// handle does one job and returns the session to go on with, or nil if the
// connection is lost.
func (c *connection) handle(s *session, j *job, q *queue) *session {
	for refusals := 1; ; refusals++ {
		if err := j.ctx.Err(); err != nil {
			j.done <- waitError(err)
			return s
		}
		err := safely(func() error { return j.do(s) })
		if !isFromModule(err) {
			j.done <- err
			return s
		}
		// The session may have an operation half done in it, which the next
		// job would trip over; and the error may be the session's own.
		lostErr := s.renew()
		if lostErr == nil {
			lostErr = safely(s.canary)
		}
		if lostErr == nil {
			lostErr = c.givenUp()
		}
		if lostErr != nil {
			why := fmt.Errorf("%w, and then %w", err, lostErr)
			c.lose(why)
			q.handBack(j, why)
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
