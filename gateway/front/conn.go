package front

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// A boundedConn is the connection below TLS. It limits the bytes of the handshake, small records until a
// request is verified, and the time of a write. Reads must not overlap each other, and neither must writes.
type boundedConn struct {
	net.Conn
	place     *place
	remaining int // bytes of the handshake; negative after it
	records   records

	// While the server computes, between reading and writing, the connection has a slot of the gate.
	enter func() (leave func(), err error) // waits for the slot
	leave func()                           // frees it; nil if the connection has none

	mu       sync.Mutex
	deadline time.Time // of writes, as it was set; guarded by mu
	closing  bool      // guarded by mu
}

// errRecords is an error of a kind that net/http closes the connection for, without an answer.
var errRecords error = &net.OpError{Op: "read", Err: errors.New("the client sent too many small TLS records")}

func (c *boundedConn) Read(p []byte) (int, error) {
	if c.remaining < 0 {
		n, err := c.Conn.Read(p)
		if !c.records.add(p[:n]) && !c.place.authenticated.Load() {
			c.place.process.count(func(counts *Counts) *int { return &counts.Records })
			return 0, errRecords
		}
		return n, err
	}
	if c.remaining == 0 {
		return 0, fmt.Errorf("the client sent more than %d bytes during its TLS handshake", maxHandshake)
	}
	c.free()
	n, err := c.Conn.Read(p[:min(len(p), c.remaining)])
	c.remaining -= n
	c.records.add(p[:n])
	if err == nil {
		c.leave, err = c.enter()
	}
	return n, err
}

func (c *boundedConn) Write(p []byte) (int, error) {
	if c.remaining >= 0 {
		c.free()
	} else {
		c.startWriting()
	}
	return c.Conn.Write(p)
}

func (c *boundedConn) free() {
	if c.leave != nil {
		c.leave()
		c.leave = nil
	}
}

const (
	// writeTime is how long a write waits if no deadline is set. net/http sets none while it reads, when TLS
	// may have to answer the client.
	writeTime = 10 * time.Second

	// closeTime limits how long Close tries to send the TLS close alert.
	closeTime = 5 * time.Millisecond
)

// SetWriteDeadline sets the deadline of writes. With the zero Time, each write may take writeTime.
func (c *boundedConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if latest := time.Now().Add(closeTime); c.closing && (t.IsZero() || t.After(latest)) {
		t = latest
	}
	c.deadline = t
	return c.Conn.SetWriteDeadline(t)
}

// SetDeadline sets the deadlines of reads and writes.
func (c *boundedConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// startWriting sets the deadline of a write if it has none.
func (c *boundedConn) startWriting() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deadline.IsZero() {
		_ = c.Conn.SetWriteDeadline(time.Now().Add(writeTime)) // it fails if the connection is closed
	}
}

// stopWriting ends the write that waits for the client, if there is one. Later ones have closeTime.
func (c *boundedConn) stopWriting() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing = true
	c.deadline = time.Now()
	_ = c.Conn.SetWriteDeadline(c.deadline) // it fails if the connection is closed
}

// Clients put a request into a few records. Each record costs time to decrypt, and a KeyUpdate costs as much as
// 10 KB, in 27 bytes. Beyond freeRecords, records must have at least smallRecord bytes on average.
const (
	freeRecords = 64
	smallRecord = 128
)

// records counts the TLS records that have arrived.
type records struct {
	count, bytes int64
	header       [5]byte
	known        int // bytes of the header that have arrived
	rest         int // bytes of the record after its header that have not arrived
}

// add counts the records that begin in p, which arrived next. It reports whether they are large enough.
func (r *records) add(p []byte) bool {
	r.bytes += int64(len(p))
	for len(p) > 0 {
		if r.rest > 0 {
			n := min(r.rest, len(p))
			r.rest -= n
			p = p[n:]
			continue
		}
		n := copy(r.header[r.known:], p)
		r.known += n
		p = p[n:]
		if r.known == len(r.header) {
			r.count++
			r.known, r.rest = 0, int(binary.BigEndian.Uint16(r.header[3:]))
		}
	}
	return r.count <= freeRecords || r.bytes >= r.count*smallRecord
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
