package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/kmsgate/kmsgate/gateway/front"
	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// An AdminRequest is what is sent to the admin door, as JSON, in the body of a
// POST to /. The answer is that of the RPC API in JSON.
type AdminRequest struct {
	Action     string
	Parameters map[string]string
}

// maxAdminBody is more than the largest policy has when it is escaped.
const maxAdminBody = 1 << 20

// ServeAdmin serves administration on a unix socket until ctx is done: every
// operation there is, to root and to whom the gateway runs as. They are the
// principal local:<uid>.
func (s *Server) ServeAdmin(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler:           s.adminHandler(),
		ConnContext:       front.WithPeer,
		ReadHeaderTimeout: headerTime,
		ReadTimeout:       readTime,
		IdleTimeout:       idleTime,
		ErrorLog:          slog.NewLogLogger(s.Logger.Handler(), slog.LevelDebug),
	}
	return front.Serve(ctx, server, l)
}

func (s *Server) adminHandler() http.Handler {
	observing := s.MetricsHandler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := s.newCall(adminDoor, "")
		// A backup takes longer than any other answer: each write has its own
		// deadline, and nothing is read from a client that waits.
		answering := &patient{w, http.NewResponseController(w)}
		p, err := s.authenticateLocal(c, r)
		if err == nil && r.Method == http.MethodGet {
			observing.ServeHTTP(answering, r)
			return
		}
		resp, err := recovered(func() (kms.Response, error) { return s.serveAdmin(w, r, c, p, err) })
		resp, api := c.finish(resp, err)
		if api != nil {
			c.writeAdmin(answering, api.Status, kms.ErrorBody{HttpStatus: api.Status, Code: api.Code, Message: api.Message, RequestId: c.requestId, HostId: ""})
			return
		}
		if o, ok := resp.(octets); ok {
			c.writeOctets(answering, o)
			return
		}
		c.writeAdmin(answering, http.StatusOK, resp)
	})
}

// A patient writer gives each write as long as other answers have in all.
type patient struct {
	http.ResponseWriter
	control *http.ResponseController
}

func (p *patient) Write(b []byte) (int, error) {
	if err := p.control.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return 0, err
	}
	return p.ResponseWriter.Write(b)
}

// writeOctets writes an answer that is no JSON. Cut short, it ends without the
// end that HTTP gives it: the client cannot take it for whole.
func (c *call) writeOctets(w http.ResponseWriter, o octets) {
	w.Header().Set("Content-Type", octetStream)
	w.WriteHeader(http.StatusOK)
	_, err := o.WriteTo(onlyWriter{w})
	if err := errors.Join(err, o.Close()); err != nil {
		c.server.Logger.Warn("an answer was cut short", "RequestId", c.requestId, "reason", err)
		panic(http.ErrAbortHandler)
	}
}

const octetStream = "application/octet-stream"

// onlyWriter keeps an *os.File from handing all of itself over in one write.
type onlyWriter struct{ io.Writer }

// authenticateLocal lets in root and whom this process runs as.
func (s *Server) authenticateLocal(c *call, r *http.Request) (*identity.Principal, error) {
	uid, ok := front.Peer(r.Context())
	if !ok {
		return nil, fmt.Errorf("%w (who is at the admin socket's other end is not known)", kms.ErrNoPermission)
	}
	c.entry.Source = fmt.Sprintf("uid:%d", uid)
	if uid != 0 && int(uid) != os.Getuid() {
		return nil, fmt.Errorf("%w (only root and uid %d may administer)", kms.ErrNoPermission, os.Getuid())
	}
	p := s.callers.Root(uid)
	c.entry.Principal = p.Name // of what cannot be read, too
	return p, nil
}

func (s *Server) serveAdmin(w http.ResponseWriter, r *http.Request, c *call, p *identity.Principal, authErr error) (kms.Response, error) {
	if authErr != nil {
		return nil, authErr
	}
	if err := checkRoute(r); err != nil {
		return nil, err
	}
	var request AdminRequest
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAdminBody))
	d.DisallowUnknownFields()
	if err := d.Decode(&request); err != nil {
		return nil, kms.ErrParseRequest.Because("It is not an admin request: %s.", kms.Clip(err.Error()))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, kms.ErrParseRequest.Because("Something follows the admin request.")
	}
	c.action, c.parameters = request.Action, request.Parameters
	c.entry.Action = kms.Clip(request.Action)
	// What is read from now on is only that the client leaves, whenever that is.
	if err := http.NewResponseController(w).SetReadDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("waiting without a deadline: %w", err)
	}
	return c.do(r.Context(), func(*call) (*identity.Principal, error) { return p, nil })
}

func (c *call) writeAdmin(w http.ResponseWriter, status int, body any) {
	text, err := kms.EncodeJSON("", body)
	if err != nil {
		c.server.Logger.Error("encoding an answer", "RequestId", c.requestId, "error", err)
		status, text = http.StatusInternalServerError, nil
	}
	w.Header().Set("Content-Type", kms.FormatJSON.ContentType)
	w.WriteHeader(status)
	_, _ = w.Write(text) // whoever asked is gone if this fails
}

// DialAdmin makes a client of the admin door at path.
func DialAdmin(path string) *AdminClient {
	return &AdminClient{http.Client{
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path)
		}},
	}}
}
