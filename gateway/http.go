package gateway

import (
	"errors"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// Handler returns the handler of the RPC API and the native API for the clients of a
// listener. It refuses requests that did not come over TLS. Only this file and the two
// doors use Echo.
func (s *Server) Handler(listener Listener) http.Handler {
	e := echo.New()
	e.IPExtractor = echo.ExtractIPDirect() // any client can forge the headers that name a source
	// The handler runs before routing, because Echo's router answers OPTIONS by itself.
	e.Pre(func(echo.HandlerFunc) echo.HandlerFunc {
		return func(ec echo.Context) error {
			_, err := catchPanic(func() (kms.Response, error) {
				return nil, s.serve(ec.Request().Context(), s.newHTTPDoor(ec, &listener), ec.RealIP())
			})
			return err
		}
	})
	e.HTTPErrorHandler = func(err error, ec echo.Context) {
		if ec.Response().Committed {
			return // the client has part of an answer and sees that it is truncated
		}
		// The answer failed after the audit line was written. No known input leads here.
		_ = s.serve(ec.Request().Context(), &brokenDoor{s.newHTTPDoor(ec, &listener), err}, ec.RealIP())
	}
	return e
}

// newHTTPDoor returns the door for a request: the native API's if the request's headers are
// those of the native API, and otherwise the RPC API's. The other door never sees it.
func (s *Server) newHTTPDoor(ec echo.Context, listener *Listener) door {
	d := httpDoor{server: s, ec: ec, listener: listener}
	if acs.IsNative(ec.Request().Header) {
		return &nativeDoor{httpDoor: d}
	}
	return &rpcDoor{httpDoor: d}
}

// An httpDoor is the common part of the two doors on one port.
type httpDoor struct {
	server   *Server
	ec       echo.Context
	listener *Listener
	claim    *acs.Claim // nil until it is parsed
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

// setClaim stores a claim in the door and in the call. It is not verified yet.
func (d *httpDoor) setClaim(c *call, claim *acs.Claim) {
	d.claim = claim
	c.action, c.parameters = claim.Action, claim.Parameters
	c.entry.Protocol = claim.Protocol
	c.entry.AccessKeyId = kms.Clip(claim.AccessKeyId)
	c.entry.Action = kms.Clip(claim.Action)
}

func (d *httpDoor) charges(c *call) []kms.Quota { return d.listener.charges(c.operation.Operation) }

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
