package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/kmsgate/kmsgate/gateway/front"
	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// maxAdminBody is the most bytes of a request. The largest policy takes fewer, even when
// escaped.
const maxAdminBody = 1 << 20

// ServeAdmin serves every operation on a unix socket until ctx is done. It serves only
// root and the user that the gateway runs as. Their principal is local:<uid>. Every answer has
// the instance's id in its header kms.InstanceHeader.
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
	metrics := s.MetricsHandler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A backup takes longer than any other answer. So each write has a deadline, and read
		// removes the deadline for reading.
		d := &adminDoor{server: s, w: &deadlineWriter{w, http.NewResponseController(w), writeTime}, r: r}
		w.Header().Set(kms.InstanceHeader, s.instance.InstanceId)
		switch err := d.identify(); {
		case err == nil && r.Method == http.MethodHead: // the header is the answer
		case err == nil && r.Method == http.MethodGet:
			metrics.ServeHTTP(d.w, r)
		default:
			_ = s.serve(r.Context(), d, d.source) // the door logs its errors and returns none
		}
	})
}

// An adminDoor is the door for local administrators: JSON on a unix socket.
type adminDoor struct {
	server *Server
	w      *deadlineWriter
	r      *http.Request
	caller localCaller
	source string // "uid:<uid>", for the audit log
	denied error  // why the peer may not administer; nil if it may
}

// identify accepts root and the user that this process runs as, and refuses others.
func (d *adminDoor) identify() error {
	peer, ok := front.Peer(d.r.Context())
	if !ok {
		d.denied = fmt.Errorf("%w (cannot identify the peer of the admin socket)", kms.ErrNoPermission)
		return d.denied
	}
	d.caller.uid, d.caller.loginUid, d.source = peer.Uid, peer.LoginUid, fmt.Sprintf("uid:%d", peer.Uid)
	if peer.Uid != 0 && int(peer.Uid) != os.Getuid() {
		d.denied = fmt.Errorf("%w (only root and uid %d may administer)", kms.ErrNoPermission, os.Getuid())
	}
	return d.denied
}

func (d *adminDoor) name() kms.Door { return kms.Admin }

func (d *adminDoor) read(c *call) error {
	if d.denied != nil {
		return d.denied
	}
	// The audit line names the principal even if the request cannot be read.
	c.entry.Principal, c.entry.LoginUid = d.server.callers.Root(d.caller.uid).Name, d.caller.loginUid
	if err := checkRoute(d.r); err != nil {
		return err
	}
	var request kms.AdminRequest
	decoder := json.NewDecoder(http.MaxBytesReader(d.w, d.r.Body, maxAdminBody))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&request); err != nil {
		return kms.ErrParseRequest.Because("The body is not an admin request: %s.", kms.Clip(err.Error()))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return kms.ErrParseRequest.Because("The body continues after the admin request.")
	}
	d.caller.request = request
	c.action, c.parameters = request.Action, request.Parameters
	c.entry.Action = kms.Clip(request.Action)
	// From now on, reading only shows when the client disconnects.
	if err := d.w.control.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("removing the read deadline: %w", err)
	}
	return nil
}

func (d *adminDoor) authenticate(_ context.Context, c *call) (*identity.Principal, error) {
	return d.caller.principal(c)
}

func (d *adminDoor) lookup(c *call) (operation, error) { return d.caller.lookup(c) }

func (d *adminDoor) charges(c *call) []kms.Quota { return d.caller.charges(c) }

func (d *adminDoor) errorOf(err error) *kms.Error { return localError(err) }

func (d *adminDoor) answer(c *call, resp kms.Response, apiErr *kms.Error) error {
	switch o, ok := resp.(octets); {
	case apiErr != nil:
		d.write(c, apiErr.Status, kms.ErrorBody{HttpStatus: apiErr.Status, Code: apiErr.Code, Message: apiErr.Message,
			RequestId: c.requestId})
	case ok:
		d.writeOctets(c, o)
	default:
		d.write(c, http.StatusOK, resp)
	}
	return nil
}

func (d *adminDoor) write(c *call, status int, body any) {
	var text bytes.Buffer
	if err := kms.EncodeJSON(&text, body); err != nil {
		d.server.config.Logger.Error("cannot encode an answer", "RequestId", c.requestId, "err", err)
		status = http.StatusInternalServerError
		text.Reset()
	}
	d.w.Header().Set("Content-Type", kms.FormatJSON.ContentType)
	d.w.Header().Set("Content-Length", strconv.Itoa(text.Len()))
	d.w.WriteHeader(status)
	_, _ = d.w.Write(text.Bytes()) // an error means that the client has disconnected
}

// writeOctets writes an answer that is not JSON. If that fails, it aborts the connection,
// so that the client cannot mistake a truncated answer for a complete one.
func (d *adminDoor) writeOctets(c *call, o octets) {
	d.w.Header().Set("Content-Type", kms.OctetStream)
	d.w.WriteHeader(http.StatusOK)
	_, err := o.WriteTo(plainWriter{d.w})
	if err := errors.Join(err, o.Close()); err != nil {
		d.server.config.Logger.Warn("answer truncated", "RequestId", c.requestId, "err", err)
		panic(http.ErrAbortHandler)
	}
}

// A deadlineWriter allows each write as much time as other doors allow a whole answer.
type deadlineWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	time    time.Duration // for each write
}

func (w *deadlineWriter) Write(b []byte) (int, error) {
	if err := w.control.SetWriteDeadline(time.Now().Add(w.time)); err != nil {
		return 0, err
	}
	return w.ResponseWriter.Write(b)
}

// A plainWriter is a Writer with no other methods. Otherwise an *os.File would hand over
// all of itself in one write, under one deadline.
type plainWriter struct{ io.Writer }
