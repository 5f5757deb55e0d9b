package front

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"
)

// firstByteTime is the time that a client has to send its first byte.
const firstByteTime = 5 * time.Second

// sniff waits for the first byte of a connection, does the TLS handshake if that byte begins
// one, and passes the connection to Accept. It closes a connection that fails.
func (l *listener) sniff(conn *countedConn) {
	defer func() {
		if p := recover(); p != nil {
			l.process.logPanic(p)
			conn.Close()
		}
	}()
	const handshake = 0x16 // the TLS record type of a ClientHello
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
	if first[0] == handshake && l.config != nil {
		if ready, err = l.handshake(peeked, conn.place); err != nil {
			conn.place.failHandshake(err)
			conn.Close()
			return
		}
	}
	select {
	case l.accepted <- newHTTPConn(ready, conn.place):
	case <-l.closed:
		conn.Close()
	}
}

// maxHandshake is how many bytes a client can send during its TLS handshake. It is thirty
// times the size of a client key's certificate.
const maxHandshake = 24 << 10

// handshake does the TLS handshake, during which the client can send maxHandshake bytes. The
// limit bounds memory: Go keeps a parsed certificate as long as the connection is open, and
// a parsed certificate takes much more memory than its encoding. The handshake ends when the
// connection loses its place.
func (l *listener) handshake(conn net.Conn, place *place) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(place.open, l.limits.HandshakeTime)
	defer cancel()
	bounded := &boundedConn{Conn: conn, place: place, remaining: maxHandshake,
		enter: func() (func(), error) { return l.process.turn(ctx, conn) }}
	defer bounded.free()
	tlsConn := tls.Server(bounded, l.config)
	if err := tlsConn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	bounded.remaining = -1
	return tlsConn, nil
}

var errBusy = errors.New("too many TLS handshakes are waiting")

// turn waits for a slot of the process's gate for a connection, and returns what frees it.
func (p *Process) turn(ctx context.Context, conn net.Conn) (leave func(), err error) {
	if p.gate == nil {
		return func() {}, nil
	}
	source := sourceOf(conn)
	known := p.known != nil && p.known.Has(source)
	if !p.gate.Enter(ctx, source, known) {
		return nil, errBusy
	}
	return func() { p.gate.Leave(source, known) }, nil
}
