package gateway

import (
	"errors"
	"net/http"
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
// change by at most handOverTime: its connection is closed then.
func release(c *call, resp kms.Response, apiErr *kms.Error, err error) error {
	s := c.server
	if c.changed {
		awaitReleases(s)
	}
	if apiErr == nil && c.used != nil {
		s.releasing.RLock()
		if err = checkStillUsable(s.config.Store.Now(), *c.used); err == nil {
			defer s.releasing.RUnlock()
		} else {
			s.releasing.RUnlock()
			resp, apiErr, err = withhold(c, err)
		}
	}
	s.metrics.count(c, apiErr)
	c.log(apiErr, err)
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

// awaitReleases returns when all answers that are past their check have been sent.
func awaitReleases(s *Server) {
	s.releasing.Lock()
	defer s.releasing.Unlock()
}

// withhold returns the answer of a call whose key version may not be used any more. The audit line
// says that the call succeeded, so withhold adds an event which says that no result was returned.
func withhold(c *call, err error) (kms.Response, *kms.Error, error) {
	if auditErr := c.server.config.Audit.AppendUnanswered(c.line); auditErr != nil {
		return nil, kms.ErrAuditLog, errors.Join(err, auditErr)
	}
	return nil, c.door.errorOf(err), err
}
