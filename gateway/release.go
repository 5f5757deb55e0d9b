package gateway

import (
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// release sends the answer. An answer that was made with a key version leaves only if the version
// may be used at that moment: another call may have disabled or deleted the key while the backend
// signed, or while the audit line was written. The answer to a change is sent only after all
// answers for which that moment was before the change. So once DisableKey is answered, no signature
// follows.
//
// An answer counts as sent when the connection has its bytes. A client that does not read delays a
// change by at most handOverTime: its connection is closed then. It delays nothing else.
func release(c *call, resp kms.Response, apiErr *kms.Error, err error) error {
	s := c.server
	if c.changed {
		s.releases.await()
	}
	if apiErr == nil && c.used != nil {
		sending := s.releases.begin()
		defer sending.end()
		if err = checkStillUsable(c, s.config.Store.Now()); err != nil {
			sending.end()
			resp, apiErr, err = withhold(c, err)
		}
	}
	s.metrics.count(c, apiErr)
	c.log(apiErr, err)
	c.sending = true
	send := func() error { return c.door.answer(c, resp, apiErr) }
	if d, ok := c.door.(interface{ handOver(send func() error) error }); ok && apiErr == nil && c.used != nil {
		return d.handOver(send)
	}
	return send()
}

// handOverTime is the time that a connection has to take the bytes of an answer. A pause of this machine, as for
// a snapshot, must not cost an answer.
const handOverTime = 5 * time.Second

func (d *httpDoor) handOver(send func() error) error {
	return handOver(http.NewResponseController(d.ec.Response()), send)
}

func (d *adminDoor) handOver(send func() error) error {
	d.w.time = handOverTime
	return handOver(d.w.control, send)
}

// handOver calls send, and then writes the answer to the connection, which net/http would otherwise do later.
func handOver(response *http.ResponseController, send func() error) error {
	_ = response.SetWriteDeadline(time.Now().Add(handOverTime)) // tests' connections have none
	err := send()
	_ = response.Flush() // the client learns of a failure: it gets no answer
	_ = response.SetWriteDeadline(time.Time{})
	return err
}

// releases are the answers that are being checked and sent. The zero value has none. It is safe for
// concurrent use.
type releases struct {
	mu     sync.Mutex
	latest *generation // guarded by mu
}

// A generation is the answers that began between two calls of await.
type generation struct {
	sending  sync.WaitGroup
	previous *generation // nil once its answers have been sent; guarded by releases.mu
}

// A sending is an answer that is being checked and sent.
type sending struct{ generation *generation } // nil once it has ended

// end says that the answer has been sent or withheld. Further calls do nothing.
func (s *sending) end() {
	if s.generation != nil {
		s.generation.sending.Done()
		s.generation = nil
	}
}

// begin adds an answer. The caller must call its end.
func (r *releases) begin() sending {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.latest == nil {
		r.latest = new(generation)
	}
	r.latest.sending.Add(1)
	return sending{r.latest}
}

// await returns when all answers that have begun are sent or withheld. Answers that begin later neither
// wait for await nor delay it: they see the records of the change that awaits.
func (r *releases) await() {
	r.mu.Lock()
	last := r.latest
	r.latest = &generation{previous: last}
	var earlier []*generation
	for g := last; g != nil; g = g.previous {
		earlier = append(earlier, g)
	}
	r.mu.Unlock()
	for _, g := range earlier {
		g.sending.Wait()
	}
	if last != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		last.previous = nil
	}
}

// withhold returns the answer of a call whose key version may not be used any more. The audit line
// does not say that, so withhold adds one which says that the result was not released, and why.
func withhold(c *call, err error) (kms.Response, *kms.Error, error) {
	apiErr := c.door.errorOf(err)
	c.entry.Status, c.entry.Code, c.entry.Reason = apiErr.Status, apiErr.Code, kms.ClipTo(kms.MaxReason, err.Error())
	var auditErr error
	if c.intent != nil {
		auditErr = c.intent.Withhold(c.entry)
	} else {
		auditErr = c.server.config.Audit.Withhold(c.line, c.entry)
	}
	if auditErr != nil {
		return nil, kms.ErrAuditLog, errors.Join(err, auditErr)
	}
	return nil, apiErr, err
}
