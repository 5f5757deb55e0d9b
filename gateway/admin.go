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
		ErrorLog:          slog.NewLogLogger(s.config.Logger.Handler(), slog.LevelDebug),
	}
	return front.Serve(ctx, server, l)
}

func (s *Server) adminHandler() http.Handler {
	observing := s.MetricsHandler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A backup takes longer than any other answer: each write has its own
		// deadline, and nothing is read from a client that waits.
		d := &adminDoor{server: s, w: &deadlineWriter{w, http.NewResponseController(w)}, r: r}
		if err := d.identify(); err == nil && r.Method == http.MethodGet {
			observing.ServeHTTP(d.w, r)
			return
		}
		_ = s.serve(r.Context(), d, d.source) // it has no error that is not logged
	})
}

// An adminDoor is the door for local administrators: JSON on a unix socket.
type adminDoor struct {
	server *Server
	w      *deadlineWriter
	r      *http.Request
	uid    uint32 // of the process at the other end
	source string // that, for the audit log
	denied error  // why it may not administer
}

// identify lets in root and whom this process runs as.
func (d *adminDoor) identify() error {
	uid, ok := front.Peer(d.r.Context())
	if !ok {
		d.denied = fmt.Errorf("%w (cannot identify the peer of the admin socket)", kms.ErrNoPermission)
		return d.denied
	}
	d.uid, d.source = uid, fmt.Sprintf("uid:%d", uid)
	if uid != 0 && int(uid) != os.Getuid() {
		d.denied = fmt.Errorf("%w (only root and uid %d may administer)", kms.ErrNoPermission, os.Getuid())
	}
	return d.denied
}

func (d *adminDoor) name() kms.Door { return kms.Admin }

func (d *adminDoor) read(c *call) error {
	if d.denied != nil {
		return d.denied
	}
	c.entry.Principal = d.server.callers.Root(d.uid).Name // of what cannot be read, too
	if err := checkRoute(d.r); err != nil {
		return err
	}
	var request kms.AdminRequest
	decoder := json.NewDecoder(http.MaxBytesReader(d.w, d.r.Body, maxAdminBody))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&request); err != nil {
		return kms.ErrParseRequest.Because("It is not an admin request: %s.", kms.Clip(err.Error()))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return kms.ErrParseRequest.Because("Something follows the admin request.")
	}
	c.action, c.parameters = request.Action, request.Parameters
	c.entry.Action = kms.Clip(request.Action)
	// What is read from now on is only that the client leaves, whenever that is.
	if err := d.w.control.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("waiting without a deadline: %w", err)
	}
	return nil
}

func (d *adminDoor) authenticate(context.Context, *call) (*identity.Principal, error) {
	return d.server.callers.Root(d.uid), nil
}

func (d *adminDoor) lookup(c *call) (operation, error) { return lookupLocal(c) }

func (d *adminDoor) errorOf(err error) *kms.Error { return apiError(err) }

func (d *adminDoor) answer(c *call, resp kms.Response, api *kms.Error) error {
	switch o, ok := resp.(octets); {
	case api != nil:
		d.write(c, api.Status, kms.ErrorBody{HttpStatus: api.Status, Code: api.Code, Message: api.Message, RequestId: c.requestId})
	case ok:
		d.writeOctets(c, o)
	default:
		d.write(c, http.StatusOK, resp)
	}
	return nil
}

func (d *adminDoor) write(c *call, status int, body any) {
	text, err := kms.EncodeJSON("", body)
	if err != nil {
		d.server.config.Logger.Error("encoding an answer", "RequestId", c.requestId, "error", err)
		status, text = http.StatusInternalServerError, nil
	}
	d.w.Header().Set("Content-Type", kms.FormatJSON.ContentType)
	d.w.WriteHeader(status)
	_, _ = d.w.Write(text) // whoever asked is gone if this fails
}

// writeOctets writes an answer that is no JSON. Cut short, it ends without the
// end that HTTP gives it: the client cannot take it for whole.
func (d *adminDoor) writeOctets(c *call, o octets) {
	d.w.Header().Set("Content-Type", kms.OctetStream)
	d.w.WriteHeader(http.StatusOK)
	_, err := o.WriteTo(onlyWriter{d.w})
	if err := errors.Join(err, o.Close()); err != nil {
		d.server.config.Logger.Warn("an answer was cut short", "RequestId", c.requestId, "reason", err)
		panic(http.ErrAbortHandler)
	}
}

// A deadlineWriter gives each write as long as other answers have in all.
type deadlineWriter struct {
	http.ResponseWriter
	control *http.ResponseController
}

func (p *deadlineWriter) Write(b []byte) (int, error) {
	if err := p.control.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return 0, err
	}
	return p.ResponseWriter.Write(b)
}

// onlyWriter keeps an *os.File from handing all of itself over in one write.
type onlyWriter struct{ io.Writer }
