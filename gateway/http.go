package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/gateway/limit"
)

// Handler returns the handler of the RPC API and the native API for the clients of a
// listener. It refuses requests that did not come over TLS. Only this file and the two
// doors use Echo.
func (s *Server) Handler(listener Listener) http.Handler {
	e := echo.New()
	e.IPExtractor = echo.ExtractIPDirect() // any client can forge the headers that name a source
	handle := func(ec echo.Context) error {
		d, common := s.newHTTPDoor(ec, &listener)
		defer common.release() // also after a panic
		_, err := catchPanic(func() (kms.Response, error) {
			return nil, s.serve(ec.Request().Context(), d, ec.RealIP())
		})
		return err
	}
	// The handler runs before routing, because Echo's router answers OPTIONS by itself.
	e.Pre(func(echo.HandlerFunc) echo.HandlerFunc { return handle })
	e.HTTPErrorHandler = func(err error, ec echo.Context) {
		if ec.Response().Committed {
			return // the client has part of an answer and sees that it is truncated
		}
		// The answer failed after the audit line was written. No known input leads here.
		d, _ := s.newHTTPDoor(ec, &listener)
		_ = s.serve(ec.Request().Context(), &brokenDoor{d, err}, ec.RealIP())
	}
	return e
}

// newHTTPDoor returns the request's door and the door's common part. Requests with the native API's headers
// get that API's door; all others get the RPC API's.
func (s *Server) newHTTPDoor(ec echo.Context, listener *Listener) (door, *httpDoor) {
	network := limit.PrefixOf(ec.RealIP())
	common := httpDoor{server: s, ec: ec, listener: listener, network: network, known: s.known.Has(network)}
	if acs.IsNative(ec.Request().Header) {
		d := &nativeDoor{common}
		return d, &d.httpDoor
	}
	d := &rpcDoor{httpDoor: common}
	return d, &d.httpDoor
}

// An httpDoor is the common part of the two doors on one port.
type httpDoor struct {
	server   *Server
	ec       echo.Context
	listener *Listener
	claim    *acs.Claim // nil until it is parsed

	network  netip.Prefix  // that the request counts against until its caller is authenticated
	known    bool          // callers from the network authenticated a short while ago
	slot     bool          // the request holds a slot of the gate
	size     int64         // the bytes of the request that reserve has counted
	bodies   *limit.Bodies // that counts the request's bytes; nil if they are few
	reserved int64         // bytes in bodies
}

// reserve counts n more bytes of a request until release. If there is no room for them, it
// returns an error: the bytes of all requests whose callers are not known yet are limited.
func (d *httpDoor) reserve(n int64) error {
	if d.size += n; d.size <= limit.SmallRequest {
		return nil
	}
	bodies := d.server.strangerBodies
	if d.known {
		bodies = d.server.knownBodies
	}
	if !bodies.Reserve(d.network.String(), d.size-d.reserved) {
		d.server.metrics.refuse(refusedBytes)
		return kms.ErrUnavailable.Because("Too many large requests are in progress.")
	}
	d.bodies, d.reserved = bodies, d.size
	return nil
}

// release undoes reserve.
func (d *httpDoor) release() {
	if d.bodies != nil {
		d.bodies.Release(d.network.String(), d.reserved)
		d.bodies = nil
	}
}

// enter takes a slot of the gate, in which the request may be parsed and its signature be
// checked. It returns an error if no slot becomes free in time. The request must not wait for
// the network or the token while it holds a slot.
func (d *httpDoor) enter(ctx context.Context) error {
	if d.server.gate.Enter(ctx, d.network, d.known) {
		d.slot = true
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	d.server.metrics.refuse(refusedSlots)
	return kms.ErrUnavailable.Because("Too many requests of callers who are not authenticated are in progress.")
}

// leave frees the slot, if the request holds one.
func (d *httpDoor) leave() {
	if d.slot {
		d.slot = false
		d.server.gate.Leave(d.network, d.known)
	}
}

// admit records that the caller is authenticated, so that its network is known from now on. It
// frees the slot.
func (d *httpDoor) admit() {
	d.leave()
	d.known = true
	d.server.known.Add(d.network)
}

// checkConnection refuses a request with a wrong path or method, without TLS, or on a
// connection whose client certificate is no longer valid: a client key can be deleted while
// its program is connected.
func (d *httpDoor) checkConnection() error {
	r := d.ec.Request()
	if err := checkRoute(r); err != nil {
		return err
	}
	if r.TLS != nil && d.listener.ClientCertificates == RequiredCertificates {
		if err := d.server.checkClientCertificate(*r.TLS); err != nil {
			return err
		}
	}
	if r.TLS == nil {
		return kms.ErrNeedSsl
	}
	return nil
}

// checkRoute refuses a request unless it is a GET or POST of "/", the only path.
func checkRoute(r *http.Request) error {
	switch {
	case r.URL.Path != "/":
		return kms.ErrApiNotFound
	case r.Method != http.MethodGet && r.Method != http.MethodPost:
		return kms.ErrHTTPMethod
	}
	return nil
}

// setClaim stores a claim in the door and in the call, without its parameters. It is not
// verified yet.
func (d *httpDoor) setClaim(c *call, claim *acs.Claim) {
	d.claim = claim
	setClaimed(c, claim.Protocol, claim.AccessKeyId, claim.Action)
}

// setClaimed stores what a request claims in the call and its audit line. The doors call it again after parsing
// the rest of the request. The claims seldom differ then.
func setClaimed(c *call, protocol, accessKeyId, action string) {
	if o, ok := operations[action]; ok {
		action = o.Name // so that the request does not stay in memory
		c.entry.Action = action
	}
	c.action, c.entry.Protocol = action, protocol
	c.entry.AccessKeyId, c.entry.Action = clipped(c.entry.AccessKeyId, accessKeyId), clipped(c.entry.Action, action)
}

func (d *httpDoor) charges(c *call) []kms.Quota { return d.listener.charges(c.operation.Operation) }

// clipped returns a text for the audit line, which can have the text already. The line must not keep the whole
// request in memory while it waits for the disk, so a text is copied, unless the line has it.
func clipped(present, text string) string {
	if text = kms.Clip(text); text == present {
		return present
	}
	return strings.Clone(text)
}

// setRetryAfter asks the client to retry after one second, if apiErr is temporary.
func (d *httpDoor) setRetryAfter(apiErr *kms.Error) {
	if apiErr.Status == http.StatusTooManyRequests || apiErr.Status == http.StatusServiceUnavailable {
		d.ec.Response().Header().Set("Retry-After", "1")
	}
}

// isTooLarge reports whether reading a body failed because it exceeds the limit.
func isTooLarge(err error) bool { return errors.As(err, new(*http.MaxBytesError)) }

// A brokenDoor answers a request whose first answer failed.
type brokenDoor struct {
	door
	err error // of the first answer
}

func (d *brokenDoor) read(*call) error { return d.err }
