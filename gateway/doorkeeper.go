package gateway

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/kmsgate/kmsgate/gateway/limit"
)

// A doorkeeper is a listener that accepts so many connections and no more, and
// looks at the first byte of each to tell TLS from plain HTTP. A connection
// that says nothing does not keep others waiting.
type doorkeeper struct {
	net.Listener
	config   *tls.Config
	accepted chan net.Conn
	closed   chan struct{}
	once     sync.Once
	err      error // why accepting ended; set before closed is closed

	limit    int
	each     int           // for one source
	patience time.Duration // for a handshake
	process  *seats        // of all listeners together
	mu       sync.Mutex
	total    int            // connections open; guarded by mu
	bySource map[string]int // the same for each address; guarded by mu
}

func newDoorkeeper(l net.Listener, config *tls.Config, how Listener, process *seats) *doorkeeper {
	d := &doorkeeper{Listener: l, config: config, accepted: make(chan net.Conn), closed: make(chan struct{}), bySource: make(map[string]int),
		limit: how.MaxConnections, each: how.MaxPerSource, patience: how.HeaderTime, process: process}
	go d.accept()
	return d
}

// accept takes connections until the listener is closed.
func (d *doorkeeper) accept() {
	for {
		conn, err := d.Listener.Accept()
		if temporary := (interface{ Temporary() bool })(nil); errors.As(err, &temporary) && temporary.Temporary() {
			select { // out of descriptors: some will be closed
			case <-time.After(10 * time.Millisecond):
			case <-d.closed:
			}
			continue
		}
		if err != nil {
			d.end(err)
			return
		}
		source := sourceOf(conn)
		if !d.admit(source) {
			conn.Close()
			continue
		}
		go d.usher(&counted{Conn: conn, leave: func() { d.release(source) }})
	}
}

// sourceOf gives the network that a connection is counted under.
func sourceOf(conn net.Conn) string {
	host, _, err := net.SplitHostPort(conn.RemoteAddr().String())
	if err != nil {
		host = conn.RemoteAddr().String()
	}
	return limit.NetworkOf(host)
}

// seats are the connections that the process may have open, to all listeners
// together: half of the files that it may open. One signature attempted with no
// descriptor left kills SoftHSM's token in that process (measured).
type seats struct {
	limit int64
	taken atomic.Int64
}

func newSeats() *seats {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil || files.Cur > math.MaxInt32 {
		return &seats{limit: math.MaxInt32}
	}
	return &seats{limit: int64(files.Cur / 2)}
}

func (s *seats) take() bool {
	if s.taken.Add(1) > s.limit {
		s.taken.Add(-1)
		return false
	}
	return true
}

func (s *seats) leave() { s.taken.Add(-1) }

func (d *doorkeeper) admit(source string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.total >= d.limit || d.bySource[source] >= d.each || !d.process.take() {
		return false
	}
	d.total++
	d.bySource[source]++
	return true
}

func (d *doorkeeper) release(source string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.process.leave()
	d.total--
	if d.bySource[source]--; d.bySource[source] == 0 {
		delete(d.bySource, source)
	}
}

// usher looks at a connection's first byte and hands it on.
func (d *doorkeeper) usher(conn net.Conn) {
	const handshake = 0x16 // TLS's record type of a ClientHello
	peeked := &peekedConn{conn, bufio.NewReader(conn)}
	if err := conn.SetReadDeadline(time.Now().Add(firstByteTime)); err != nil {
		conn.Close()
		return
	}
	first, err := peeked.reader.Peek(1)
	if err != nil {
		conn.Close()
		return
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		conn.Close()
		return
	}
	var ready net.Conn = peeked
	if first[0] == handshake {
		if ready, err = d.greet(peeked); err != nil {
			conn.Close()
			return
		}
	}
	select {
	case d.accepted <- ready:
	case <-d.closed:
		conn.Close()
	}
}

// greet does TLS's handshake, in which a client may send so much and no more: what
// Go makes of a certificate takes much more room than that, and is kept as long as
// the connection is open.
func (d *doorkeeper) greet(conn net.Conn) (net.Conn, error) {
	bounded := &boundedConn{Conn: conn, left: maxHandshake}
	secure := tls.Server(bounded, d.config)
	ctx, cancel := context.WithTimeout(context.Background(), d.patience)
	defer cancel()
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	bounded.left = -1
	return secure, nil
}

// maxHandshake is thirty times as many bytes as a client key's certificate has.
const maxHandshake = 24 << 10

// A boundedConn gives so many bytes and then an error. It belongs to one goroutine at
// a time.
type boundedConn struct {
	net.Conn
	left int // bytes; less than 0 is without bound
}

func (c *boundedConn) Read(p []byte) (int, error) {
	if c.left < 0 {
		return c.Conn.Read(p)
	}
	if c.left == 0 {
		return 0, errors.New("the client sends too much before it says who it is")
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// Accept gives a connection that has said something, and has done TLS's handshake if
// it said that.
func (d *doorkeeper) Accept() (net.Conn, error) {
	select {
	case conn := <-d.accepted:
		return conn, nil
	case <-d.closed:
		return nil, d.err
	}
}

// Close stops accepting.
func (d *doorkeeper) Close() error {
	d.end(net.ErrClosed)
	return d.Listener.Close()
}

func (d *doorkeeper) end(err error) {
	d.once.Do(func() {
		d.err = err
		close(d.closed)
	})
}

// A counted connection tells when it is closed, once.
type counted struct {
	net.Conn
	once  sync.Once
	leave func()
}

func (c *counted) Close() error {
	c.once.Do(c.leave)
	return c.Conn.Close()
}

// A peekedConn is a connection whose first bytes were looked at.
type peekedConn struct {
	net.Conn
	reader *bufio.Reader
}

func (c *peekedConn) Read(p []byte) (int, error) { return c.reader.Read(p) }
