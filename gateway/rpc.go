package gateway

import (
	"errors"
	"io"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// maxBody is the most bytes that a request's body may have, and its query.
const maxBody = 256 << 10

// Handler serves the RPC API and the native API to the clients of a listener.
// Requests that did not come over TLS are refused. Echo stays in the doors and in
// format.go.
func (s *Server) Handler(listener Listener) http.Handler {
	e := echo.New()
	e.IPExtractor = echo.ExtractIPDirect() // what a header says of the source is anyone's to say
	// Before routing, or Echo answers OPTIONS by itself. The corridor catches
	// its own panics; what is caught here is the door's.
	e.Pre(func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(ec echo.Context) error {
			_, err := recovered(func() (kms.Response, error) {
				if err := checkRoute(ec.Request()); err != nil {
					return nil, err
				}
				if err := s.checkConnection(ec.Request().TLS, &listener); err != nil {
					return nil, err
				}
				return nil, next(ec)
			})
			return err
		}
	})
	e.Match([]string{http.MethodGet, http.MethodPost}, "/", func(ec echo.Context) error {
		if doorOf(ec.Request()) == nativeDoor {
			return s.native(ec, &listener)
		}
		return s.rpc(ec, &listener)
	})
	e.HTTPErrorHandler = func(err error, ec echo.Context) {
		if ec.Response().Committed {
			return // the answer was begun; the client sees that it is cut off
		}
		c := s.newCall(doorOf(ec.Request()), ec.RealIP())
		_, api := c.finish(nil, err)
		_ = c.writeError(ec, api) // the client is gone if this fails
	}
	return e
}

// doorOf tells the two APIs of one endpoint apart. Whatever a request looks like, it
// is judged by one of them only.
func doorOf(r *http.Request) door {
	if acs.IsNative(r.Header) {
		return nativeDoor
	}
	return rpcDoor
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

// rpc serves one request of the RPC API.
func (s *Server) rpc(ec echo.Context, listener *Listener) error {
	c := s.newCall(rpcDoor, ec.RealIP())
	c.listener = listener
	resp, err := recovered(func() (kms.Response, error) { return s.serveRPC(ec.Request(), c) })
	resp, api := c.finish(resp, err)
	if s.EchoStringToSign && api != nil && errors.Is(api, kms.ErrSignatureMismatch) && c.parameters["Password"] == "" {
		// Here and not in the error itself, which is logged: it is the
		// request's URI in another form.
		api = api.Because("server string to sign is:%s", c.claim.StringToSign())
	}
	if api != nil {
		return c.writeError(ec, api)
	}
	return c.answer(ec, http.StatusOK, c.action+"Response", resp)
}

func (s *Server) serveRPC(r *http.Request, c *call) (kms.Response, error) {
	if r.TLS == nil {
		return nil, kms.ErrNeedSsl
	}
	if len(r.URL.RawQuery) > maxBody { // the SDKs send everything in the query
		return nil, kms.ErrTooLarge.Because("A query may have %d bytes.", maxBody)
	}
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return nil, kms.ErrTooLarge.Because("A body may have %d bytes.", maxBody)
	}
	if err != nil {
		return nil, kms.ErrParseRequest.Because("The body ended too early.")
	}
	request, err := acs.NewRequest(r, body)
	if err != nil {
		return nil, err
	}
	c.format = kms.FormatOf(request.Parameter("Format"))
	claim, err := acs.Parse(request)
	if err != nil {
		return nil, err
	}
	c.read(claim)
	return c.do(r.Context(), func(c *call) (*identity.Principal, error) { return s.callers.AccessKey(c.records, claim, s.Now()) })
}
