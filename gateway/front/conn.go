package front

import (
	"bufio"
	"errors"
	"net"
	"sync"
)

// A boundedConn reads so many bytes and then fails. It belongs to one goroutine at a time.
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

// A counted connection calls done when it is closed, once.
type counted struct {
	net.Conn
	once sync.Once
	done func()
}

func (c *counted) Close() error {
	c.once.Do(c.done)
	return c.Conn.Close()
}

// A peekedConn is a connection whose first bytes are in reader.
type peekedConn struct {
	net.Conn
	reader *bufio.Reader
}

func (c *peekedConn) Read(p []byte) (int, error) { return c.reader.Read(p) }
