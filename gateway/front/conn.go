package front

import (
	"bufio"
	"fmt"
	"net"
)

// A boundedConn reads a limited number of bytes and then fails. It is not safe for
// concurrent use.
type boundedConn struct {
	net.Conn
	remaining int // bytes; a negative number means no limit

	// While the server computes, between reading and writing, the connection has a slot of the gate.
	enter func() (leave func(), err error) // waits for the slot
	leave func()                           // frees it; nil if the connection has none
}

func (c *boundedConn) Read(p []byte) (int, error) {
	if c.remaining < 0 {
		return c.Conn.Read(p)
	}
	if c.remaining == 0 {
		return 0, fmt.Errorf("the client sent more than %d bytes during its TLS handshake", maxHandshake)
	}
	c.free()
	n, err := c.Conn.Read(p[:min(len(p), c.remaining)])
	c.remaining -= n
	if err == nil {
		c.leave, err = c.enter()
	}
	return n, err
}

func (c *boundedConn) Write(p []byte) (int, error) {
	if c.remaining >= 0 {
		c.free()
	}
	return c.Conn.Write(p)
}

func (c *boundedConn) free() {
	if c.leave != nil {
		c.leave()
		c.leave = nil
	}
}

// A countedConn leaves its place when it is closed.
type countedConn struct {
	net.Conn
	place *place
}

func (c *countedConn) Close() error {
	c.place.leave()
	return c.Conn.Close()
}

// A peekedConn is a connection that is read through reader, which already holds its first
// bytes.
type peekedConn struct {
	net.Conn
	reader *bufio.Reader
}

func (c *peekedConn) Read(p []byte) (int, error) { return c.reader.Read(p) }
