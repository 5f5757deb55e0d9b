package gateway

import (
	"errors"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// Handler serves the RPC API and the native API to the clients of a listener.
// Requests that did not come over TLS are refused. Echo is seen in this file and
// in the two doors only.
func (s *Server) Handler(listener Listener) http.Handler {
	e := echo.New()
	e.IPExtractor = echo.ExtractIPDirect() // what a header says of the source is anyone's to say
	// Before routing: there is one path, and Echo would answer OPTIONS by itself.
	e.Pre(func(echo.HandlerFunc) echo.HandlerFunc {
		return func(ec echo.Context) error {
			_, err := recovered(func() (kms.Response, error) {
				return nil, s.serve(ec.Request().Context(), s.newHTTPDoor(ec, &listener), ec.RealIP())
			})
			return err
		}
	})
	e.HTTPErrorHandler = func(err error, ec echo.Context) {
		if ec.Response().Committed {
			return // the answer was begun; the client sees that it is cut off
		}
		// A fault of ours behind the audit line, where no input is known to lead.
		_ = s.serve(ec.Request().Context(), &brokenDoor{s.newHTTPDoor(ec, &listener), err}, ec.RealIP())
	}
	return e
}

// newHTTPDoor tells the two APIs of one endpoint apart. Whatever a request looks like, it
// is judged by one of them only.
func (s *Server) newHTTPDoor(ec echo.Context, listener *Listener) door {
	d := httpDoor{server: s, ec: ec, listener: listener}
	if acs.IsNative(ec.Request().Header) {
		return &nativeDoor{httpDoor: d}
	}
	return &rpcDoor{httpDoor: d}
}

// An httpDoor is what the doors of one endpoint have in common.
type httpDoor struct {
	server   *Server
	ec       echo.Context
	listener *Listener
	claim    *acs.Claim // nil until it was parsed
}

// checkConnection refuses what is not GET or POST of the only path, and requests of
// connections that the listener would not take any more: a client key can be deleted
// while its program is connected.
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

// checkRoute refuses what is not GET or POST of the only path.
func checkRoute(r *http.Request) error {
	switch {
	case r.URL.Path != "/":
		return kms.ErrApiNotFound
	case r.Method != http.MethodGet && r.Method != http.MethodPost:
		return kms.ErrHTTPMethod
	}
	return nil
}

// take takes over a claim.
func (d *httpDoor) take(c *call, claim *acs.Claim) {
	d.claim = claim
	c.action, c.parameters = claim.Action, claim.Parameters
	c.entry.Protocol = claim.Protocol
	c.entry.AccessKeyId = kms.Clip(claim.AccessKeyId)
	c.entry.Action = kms.Clip(claim.Action)
}

// retryLater tells clients when to try again what will pass.
func (d *httpDoor) retryLater(api *kms.Error) {
	if api.Status == http.StatusTooManyRequests || api.Status == http.StatusServiceUnavailable {
		d.ec.Response().Header().Set("Retry-After", "1")
	}
}

// tooLarge reports whether a body was not read because it has too many bytes.
func tooLarge(err error) bool { return errors.As(err, new(*http.MaxBytesError)) }

// A brokenDoor answers a request whose own answer could not be made.
type brokenDoor struct {
	door
	err error // why
}

func (d *brokenDoor) read(*call) error { return d.err }
