package front

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
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
	process  *Process             // shared by all listeners; its lock guards the fields below
	room     room                 // the connections that are open
	bySource map[netip.Prefix]int // the same, by source
}

// Limits bound the connections of one listener. Zero fields admit no connection.
type Limits struct {
	Connections   int           // the connections that can be open at once; a quarter is kept for known sources
	PerSource     int           // the same, from one source
	HandshakeTime time.Duration // the longest time for a TLS handshake
}

// Listen returns a listener that accepts the connections to l within limits, for [Serve]. Its
// connections have completed their TLS handshake and have a method ConnectionState, or they are
// plain HTTP. If config is nil, all are plain. For a connection beyond the limits it closes the
// oldest one that has not authenticated; if there is none that may be closed, it closes the new
// one. All listeners of a process share process. Closing the returned listener closes l.
func Listen(l net.Listener, config *tls.Config, limits Limits, process *Process) net.Listener {
	limited := &listener{
		Listener: l,
		config:   config,
		accepted: make(chan net.Conn),
		closed:   make(chan struct{}),
		limits:   limits,
		process:  process,
		room:     room{limit: limits.Connections},
		bySource: make(map[netip.Prefix]int),
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
		place, evicted := l.process.admit(l, conn)
		for _, old := range evicted {
			_ = old.Close() // waits until its descriptor is free; the goroutine that uses it gets an error
		}
		if place == nil {
			conn.Close()
			continue
		}
		go l.sniff(&countedConn{conn, place})
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
