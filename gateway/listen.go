package gateway

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// What a listener allows. It takes at most half of the files that the process
// may open for connections: one signature attempted with no descriptor left
// kills SoftHSM's token in that process (measured).
const (
	maxConnections = 1024
	maxPerSource   = 128 // eight sources take all connections, not one
	firstByteTime  = 5 * time.Second
	headerTime     = 10 * time.Second
	readTime       = 30 * time.Second
	writeTime      = 60 * time.Second
	idleTime       = 2 * time.Minute
	shutdownTime   = 10 * time.Second
	maxHeader      = 320 << 10 // bytes, a query of 256 KiB included; past it there is no answer in JSON
)

// Serve serves the RPC API on l over TLS until ctx is done, and then lets the
// requests in flight end. Clients that speak plain HTTP are told so: it is an
// old SDK's default.
func (s *Server) Serve(ctx context.Context, l net.Listener, config *tls.Config) error {
	// Shutdown does not wait for handlers whose connections it had to close.
	var handlers sync.WaitGroup
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			handlers.Add(1)
			defer handlers.Done()
			s.handler.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: headerTime,
		ReadTimeout:       readTime,
		WriteTimeout:      writeTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.Logger.Handler(), slog.LevelDebug),
	}
	door := newDoorkeeper(l, config)
	tending, stopTending := context.WithCancel(ctx)
	var tended sync.WaitGroup
	tended.Go(func() { every(tending, s.CarryOutDeletions) })
	if s.Spare {
		go func() { // not waited for: making one cannot be cut short
			select {
			case <-tending.Done():
			case <-time.After(tendEvery): // whoever only starts a gateway for a test needs none
				every(tending, s.keepSpare)
			}
		}()
	}
	defer tended.Wait()
	defer stopTending()
	served := make(chan error, 1)
	go func() { served <- server.Serve(door) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	err := server.Shutdown(ending)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close()
	}
	<-served
	handlers.Wait()
	return err
}

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
	mu       sync.Mutex
	total    int            // connections open; guarded by mu
	bySource map[string]int // the same for each address; guarded by mu
}

func newDoorkeeper(l net.Listener, config *tls.Config) *doorkeeper {
	d := &doorkeeper{Listener: l, config: config, accepted: make(chan net.Conn), closed: make(chan struct{}), bySource: make(map[string]int), limit: connectionLimit()}
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

// sourceOf gives the address that a connection is counted under. An IPv6 host
// has as many addresses as it likes, so all of a /64 is one.
func sourceOf(conn net.Conn) string {
	remote, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return conn.RemoteAddr().String()
	}
	address := remote.Addr().Unmap()
	if address.Is6() {
		if prefix, err := address.WithZone("").Prefix(64); err == nil {
			return prefix.String()
		}
	}
	return address.String()
}

// connectionLimit is maxConnections, or less where few files may be open.
func connectionLimit() int {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil || files.Cur/2 > maxConnections {
		return maxConnections
	}
	return int(files.Cur / 2)
}

func (d *doorkeeper) admit(source string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.total >= d.limit || d.bySource[source] >= maxPerSource {
		return false
	}
	d.total++
	d.bySource[source]++
	return true
}

func (d *doorkeeper) release(source string) {
	d.mu.Lock()
	defer d.mu.Unlock()
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
		ready = tls.Server(peeked, d.config)
	}
	select {
	case d.accepted <- ready:
	case <-d.closed:
		conn.Close()
	}
}

// Accept gives a connection that has said something.
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
