package gateway

import (
	"bytes"
	"errors"
	"net/http"
	"sync"

	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

const (
	// maxNativeBody is the most bytes that a body may have: 3 MB, KMS documents.
	maxNativeBody = 3 << 20

	// smallBody is what each connection may send at any time; of larger ones there
	// are so many bytes at once, for all callers and for one.
	smallBody     = 64 << 10
	maxBodies     = 128 << 20
	maxBodiesEach = 32 << 20
)

var errNativeTooLarge = kms.ErrTooLarge.Because("A body may have %d bytes.", maxNativeBody)

// bodies counts the bytes of large bodies that are being read or used. A client can
// take as long as it likes to send one.
type bodies struct {
	mu  sync.Mutex
	all int64            // guarded by mu
	of  map[string]int64 // the same for each principal; guarded by mu
}

// take counts n bytes in, and reports whether there is room for them.
func (b *bodies) take(who string, n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.all+n > maxBodies || b.of[who]+n > maxBodiesEach {
		return false
	}
	if b.of == nil {
		b.of = make(map[string]int64)
	}
	b.all += n
	b.of[who] += n
	return true
}

func (b *bodies) bytes() float64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return float64(b.all)
}

func (b *bodies) give(who string, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all -= n
	if b.of[who] -= n; b.of[who] == 0 {
		delete(b.of, who)
	}
}

// readNative reads a request's body, and believes it if it is the one that was
// signed. It is called for callers only who are known and within their quota: others
// cannot have 3 MB kept for each of their connections. Reading takes as long as the
// client likes, so who asks is asked again.
func (c *call) readNative(r *http.Request, claim *acs.Claim) ([]byte, func(), error) {
	n := r.ContentLength
	if n < 0 {
		n = maxNativeBody
	}
	release := func() {}
	if n > smallBody {
		who := c.principal.user.UserName
		if !c.server.bodies.take(who, n) {
			return nil, nil, kms.ErrUnavailable.Because("Too many large requests are being sent.")
		}
		release = func() { c.server.bodies.give(who, n) }
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
	if c.principal, err = c.server.authenticateNative(r.Context(), c.records, claim); err != nil {
		return nil, nil, err
	}
	whole = true
	return body, release, nil
}

func readSigned(r *http.Request, claim *acs.Claim) ([]byte, error) {
	body := make([]byte, 0, max(r.ContentLength, 0)+bytes.MinRead) // no more than that, if it is known
	buffer := bytes.NewBuffer(body)
	_, err := buffer.ReadFrom(http.MaxBytesReader(nil, r.Body, maxNativeBody))
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
