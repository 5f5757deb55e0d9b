package front

import (
	"bufio"
	"context"
	"crypto/tls"
	"net"
	"time"
)

// firstByteTime is how long a client may take to send its first byte.
const firstByteTime = 5 * time.Second

// sniff looks at a connection's first byte and hands it on.
func (l *listener) sniff(conn net.Conn) {
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
		if ready, err = l.handshake(peeked); err != nil {
			conn.Close()
			return
		}
	}
	select {
	case l.accepted <- ready:
	case <-l.closed:
		conn.Close()
	}
}

// maxHandshake is how many bytes a client can send during its handshake: thirty times as
// many as the certificate of a client key has.
const maxHandshake = 24 << 10

// handshake does the TLS handshake. It bounds what the client sends meanwhile, because Go
// keeps a parsed certificate, which takes much more memory than its bytes, as long as the
// connection is open.
func (l *listener) handshake(conn net.Conn) (net.Conn, error) {
	bounded := &boundedConn{Conn: conn, left: maxHandshake}
	secure := tls.Server(bounded, l.config)
	ctx, cancel := context.WithTimeout(context.Background(), l.limits.HandshakeTime)
	defer cancel()
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	bounded.left = -1
	return secure, nil
}
