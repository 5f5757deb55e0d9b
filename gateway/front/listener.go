package front

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/kmsgate/kmsgate/gateway/limit"
)

// A listener accepts a limited number of connections, and tells TLS from plain HTTP by the
// first byte of each.
type listener struct {
	net.Listener
	config   *tls.Config
	accepted chan net.Conn
	closed   chan struct{}
	once     sync.Once
	err      error // why accepting ended; set before closed is closed

	limits   Limits
	process  *Process // shared by all listeners
	mu       sync.Mutex
	total    int            // connections open; guarded by mu
	bySource map[string]int // connections open, by network; guarded by mu
}

// Limits bound the connections of one listener. Zero fields admit no connection.
type Limits struct {
	Connections   int           // the connections that can be open at once
	PerSource     int           // the same, from one IPv4 address or one IPv6 /64
	HandshakeTime time.Duration // the longest time for a TLS handshake
}

// Listen returns a listener that accepts the connections to l within limits. Its connections
// are *tls.Conn whose handshake is complete, or plain HTTP. It closes a connection beyond
// the limits at once. All listeners of a process share process. Closing the returned listener
// closes l.
func Listen(l net.Listener, config *tls.Config, limits Limits, process *Process) net.Listener {
	limited := &listener{
		Listener: l,
		config:   config,
		accepted: make(chan net.Conn),
		closed:   make(chan struct{}),
		limits:   limits,
		process:  process,
		bySource: make(map[string]int),
	}
	go limited.accept()
	return limited
}

// accept admits connections until the listener is closed.
func (l *listener) accept() {
	for {
		conn, err := l.Listener.Accept()
		if temporary := (interface{ Temporary() bool })(nil); errors.As(err, &temporary) && temporary.Temporary() {
			select { // the process is out of file descriptors; closing connections frees some
			case <-time.After(10 * time.Millisecond):
			case <-l.closed:
			}
			continue
		}
		if err != nil {
			l.end(err)
			return
		}
		source := sourceOf(conn)
		if !l.admit(source) {
			conn.Close()
			continue
		}
		go l.sniff(&countedConn{Conn: conn, release: func() { l.release(source) }})
	}
}

// sourceOf returns the network that a connection counts against.
func sourceOf(conn net.Conn) string {
	host, _, err := net.SplitHostPort(conn.RemoteAddr().String())
	if err != nil {
		host = conn.RemoteAddr().String()
	}
	return limit.NetworkOf(host)
}

func (l *listener) admit(source string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= l.limits.Connections || l.bySource[source] >= l.limits.PerSource || !l.process.take() {
		return false
	}
	l.total++
	l.bySource[source]++
	return true
}

func (l *listener) release(source string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.process.release()
	l.total--
	if l.bySource[source]--; l.bySource[source] == 0 {
		delete(l.bySource, source)
	}
}

// Accept returns the next connection that has sent its first byte and, if it speaks TLS, has
// completed its handshake.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.accepted:
		return conn, nil
	case <-l.closed:
		return nil, l.err
	}
}

// Close stops accepting connections. Accepted ones stay open.
func (l *listener) Close() error {
	l.end(net.ErrClosed)
	return l.Listener.Close()
}

func (l *listener) end(err error) {
	l.once.Do(func() {
		l.err = err
		close(l.closed)
	})
}
