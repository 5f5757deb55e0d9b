package gateway

import (
	"bytes"
	"errors"
	"net/http"

	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/gateway/limit"
)

var errNativeTooLarge = kms.ErrTooLarge.Because("A body may have %d bytes.", limit.MaxNativeBody)

// readNative reads a request's body, and believes it if it is the one that was
// signed. It is called for callers only who are known and within their quota: others
// cannot have 3 MB kept for each of their connections. Reading takes as long as the
// client likes, so who asks is asked again.
func (c *call) readNative(r *http.Request, claim *acs.Claim) ([]byte, func(), error) {
	n := r.ContentLength
	if n < 0 {
		n = limit.MaxNativeBody
	}
	release := func() {}
	if n > limit.SmallBody {
		who := c.principal.Name
		if !c.server.bodies.Take(who, n) {
			return nil, nil, kms.ErrUnavailable.Because("Too many large requests are being sent.")
		}
		release = func() { c.server.bodies.Give(who, n) }
	}
	whole := false
	defer func() {
		if !whole { // a panic must not keep the room either
			release()
		}
	}()
	body, err := readSigned(r, claim)
	if err != nil {
		return nil, nil, err
	}
	c.records = c.server.Store.Now()
	if c.principal, err = c.server.callers.ClientKey(r.Context(), c.records, claim, c.server.Now()); err != nil {
		return nil, nil, err
	}
	whole = true
	return body, release, nil
}

func readSigned(r *http.Request, claim *acs.Claim) ([]byte, error) {
	body := make([]byte, 0, max(r.ContentLength, 0)+bytes.MinRead) // no more than that, if it is known
	buffer := bytes.NewBuffer(body)
	_, err := buffer.ReadFrom(http.MaxBytesReader(nil, r.Body, limit.MaxNativeBody))
	body = buffer.Bytes()
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return nil, errNativeTooLarge
	}
	if err != nil {
		return nil, kms.ErrInvalidParameter.Because("The body ended too early.")
	}
	if !claim.Covers(body) {
		return nil, kms.ErrNativeSignature.Because("The content-sha256 that was signed is not that of the body.")
	}
	return body, nil
}
