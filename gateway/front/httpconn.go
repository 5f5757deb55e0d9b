package front

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
)

// The states of an httpConn, in the order of a request.
const (
	readingHeader int32 = iota
	headerRead          // net/http has the header, or has found it malformed
	handling            // a handler was called
	idle                // the response was sent
)

// An httpConn is a connection that net/http serves. Its header fields are bounded, and it ends after a
// request that was not verified. It counts requests that net/http answers without calling a handler.
type httpConn struct {
	net.Conn // plain, or a *tls.Conn whose handshake is complete
	place    *place
	state    atomic.Int32

	// Only net/http's serving goroutine uses these.
	header header      // of the request that is being read
	answer http.Header // of the answer to the request that is being handled
}

// A tlsConn is an httpConn over TLS. net/http finds its methods and sets [http.Request].TLS.
type tlsConn struct {
	httpConn
	session *tls.Conn
}

func (c *tlsConn) ConnectionState() tls.ConnectionState { return c.session.ConnectionState() }
func (c *tlsConn) CloseWrite() error                    { return c.session.CloseWrite() }

// Close closes the connection. It never waits for the client: net/http closes connections one by one.
func (c *tlsConn) Close() error {
	if bounded, ok := c.session.NetConn().(*boundedConn); ok {
		bounded.stopWriting()
	}
	return c.session.Close()
}

// newHTTPConn returns conn, plain or a *tls.Conn, as a connection for net/http.
func newHTTPConn(conn net.Conn, place *place) net.Conn {
	if session, ok := conn.(*tls.Conn); ok {
		return &tlsConn{httpConn{Conn: session, place: place}, session}
	}
	return &httpConn{Conn: conn, place: place}
}

func (c *httpConn) self() *httpConn { return c }

// httpConnOf returns the httpConn of a connection that newHTTPConn returned, or nil.
func httpConnOf(conn net.Conn) *httpConn {
	if c, ok := conn.(interface{ self() *httpConn }); ok {
		return c.self()
	}
	return nil
}

func (c *httpConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if errors.Is(err, errRecords) {
		err = errRecords // TLS wraps it
	}
	if n > 0 {
		c.state.CompareAndSwap(idle, readingHeader)
	}
	if n == 0 || c.state.Load() != readingHeader {
		return n, err
	}
	if !c.header.add(p[:n]) {
		return min(n, 4), errHeader // net/http answers 400 if it has the first four bytes of the request
	}
	if c.header.bytes > smallHeader && !c.header.large && !c.place.authenticated.Load() {
		if !c.place.beginLargeHeader() {
			return 0, errLargeHeader
		}
		c.header.large = true
	}
	return n, err
}

func (c *httpConn) Write(p []byte) (int, error) {
	// Before a handler was called, only net/http itself writes, to refuse a request.
	if state := c.state.Load(); state == readingHeader || state == headerRead {
		c.state.Store(handling)
		c.place.process.count(func(counts *Counts) *int { return &counts.Malformed })
	}
	return c.Conn.Write(p)
}

// handle records that a handler is about to run. Unless the connection is already authenticated, it
// closes after the answer if the handler does not call Authenticated.
func (c *httpConn) handle(w http.ResponseWriter) {
	c.state.Store(handling)
	c.answer = w.Header()
	if !c.place.authenticated.Load() {
		c.answer.Set("Connection", "close")
	}
}

// follow is the hook [http.Server.ConnState].
func follow(conn net.Conn, state http.ConnState) {
	c := httpConnOf(conn)
	switch {
	case c == nil:
	case state == http.StateActive: // the header was read, or is malformed
		c.state.Store(headerRead)
	case state == http.StateIdle:
		if c.header.large {
			c.place.endLargeHeader()
		}
		c.header = header{}
		c.state.Store(idle)
	}
}

// connKey is the context key of a request's httpConn.
type connKey struct{}

// withConn returns a hook [http.Server.ConnContext] that calls next, unless that is nil, and
// adds the httpConn to the context.
func withConn(next func(context.Context, net.Conn) context.Context) func(context.Context, net.Conn) context.Context {
	return func(ctx context.Context, conn net.Conn) context.Context {
		if next != nil {
			ctx = next(ctx, conn)
		}
		if c := httpConnOf(conn); c != nil {
			ctx = context.WithValue(ctx, connKey{}, c)
		}
		return ctx
	}
}

// Authenticated records that the request with the context ctx was verified. Its connection stays open after
// the answer. Until a request on it fails to authenticate, the connection is not closed to make room for others.
// The handler must call Authenticated before it writes, from its own goroutine. For requests that did not
// come through [Listen] and [Serve], Authenticated does nothing.
func Authenticated(ctx context.Context) {
	if c, ok := ctx.Value(connKey{}).(*httpConn); ok {
		c.place.authenticate()
		c.answer.Del("Connection")
	}
}

// Unauthenticated records that the caller of the request with the context ctx could not authenticate: it is
// the opposite of Authenticated.
func Unauthenticated(ctx context.Context) {
	if c, ok := ctx.Value(connKey{}).(*httpConn); ok {
		c.place.becomeUnauthenticated()
		c.answer.Set("Connection", "close")
	}
}

// The bounds of a request's header. The SDKs send fewer than 30 fields, with less than 4 KiB. Long
// values are in the request line, which [http.Server.MaxHeaderBytes] bounds: net/http keeps it as
// one string, whereas a field takes 200 bytes even if it is empty.
const (
	maxFields     = 128
	maxFieldBytes = 16 << 10
	smallHeader   = 16 << 10 // bytes; a header beyond them, with its request line, is large
)

// errLargeHeader is an error of a kind that net/http closes the connection for, without an answer.
var errLargeHeader error = &net.OpError{Op: "read", Err: errors.New("too many other connections are sending a large header")}

var errHeader = fmt.Errorf("the request's header has more than %d fields or %d bytes of fields", maxFields, maxFieldBytes)

// A header counts the parts of a request's header while it is read. It may count up to 4 KiB of
// what follows the header, which net/http reads with it.
type header struct {
	bytes  int  // read
	fields int  // complete lines after the request line
	size   int  // bytes of these, and of the line that has begun
	line   int  // bytes of the line that has begun
	blank  bool // that line is empty so far, or a carriage return
	begun  bool // the request line is complete
	ended  bool // the blank line was read
	large  bool // place.beginLargeHeader was called
}

// add counts p, which was read next. It reports whether the fields are within their bounds.
func (h *header) add(p []byte) bool {
	h.bytes += len(p)
	for len(p) > 0 && !h.ended {
		n := bytes.IndexByte(p, '\n') + 1
		complete := n > 0
		if !complete {
			n = len(p)
		}
		h.count(p[:n], complete)
		p = p[n:]
	}
	return h.fields <= maxFields && h.size <= maxFieldBytes
}

// count counts a part of a line, up to its end if that is complete.
func (h *header) count(part []byte, complete bool) {
	text := bytes.TrimSuffix(part, []byte("\n"))
	h.blank = (h.line == 0 || h.blank) && len(bytes.TrimSuffix(text, []byte("\r"))) == 0
	h.line += len(part)
	if h.begun {
		h.size += len(part)
	}
	if !complete {
		return
	}
	switch {
	case h.begun && h.blank:
		h.ended = true
	case h.begun:
		h.fields++
	case !h.blank: // net/http skips blank lines before a request
		h.begun = true
	}
	h.line, h.blank = 0, false
}
