package front_test

import (
	"bytes"
	"crypto/tls"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/gateway/front"
	"github.com/kmsgate/kmsgate/gateway/limit"
)

// TestHandshakesWait checks that the handshake of a stranger waits while strangers have all their slots, that
// one from a known source does not, and that a client which does not go on keeps no slot.
func TestHandshakesWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		known, gate := limit.NewKnown(), limit.NewGate(1)
		known.Add(limit.PrefixOf("192.0.2.9"))
		process := front.NewProcess(known, gate)
		b := newBench(t, ample, process, &tls.Config{Certificates: []tls.Certificate{certificate(t, 0)}})
		handshake := func(source string) error {
			t.Helper()
			return tls.Client(b.dial(source), &tls.Config{InsecureSkipVerify: true}).HandshakeContext(t.Context())
		}
		elsewhere := limit.PrefixOf("198.51.100.1")
		if !gate.Enter(t.Context(), elsewhere, false) {
			t.Fatal("the gate is full")
		}
		if err := handshake("192.0.2.9:1"); err != nil {
			t.Errorf("a known source: got %v, want a handshake", err)
		}
		began := time.Now()
		if err := handshake("192.0.2.1:1"); err == nil || time.Since(began) != limit.GateTime {
			t.Errorf("a stranger: got %v after %v, want an error after %v", err, time.Since(began), limit.GateTime)
		}
		synctest.Wait()
		if counts := process.Counts(); counts.Busy != 1 || counts.Handshakes != 0 {
			t.Errorf("got %+v, want one connection that got no slot", counts)
		}
		gate.Leave(elsewhere, false)
		end := make(chan struct{})
		defer close(end)
		silent := tls.Client(silentConn{b.dial("192.0.2.2:1"), end}, &tls.Config{InsecureSkipVerify: true})
		go func() { _ = silent.HandshakeContext(t.Context()) }()
		half := b.dial("192.0.2.3:1")
		go func() { _, _ = half.Write([]byte{0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3}) }() // the beginning of a ClientHello
		garbage := b.dial("192.0.2.4:1")
		go func() { _, _ = garbage.Write([]byte{0x16, 0xff, 0xff, 0, 1, 0}) }() // its handshake fails
		synctest.Wait()
		for range 3 { // each frees its slot
			if err := handshake("192.0.2.1:2"); err != nil {
				t.Errorf("a stranger while others do not go on: got %v, want a handshake", err)
			}
		}
	})
}

// TestEvictedHandshake checks that a handshake which waits for a slot ends when its connection is closed to make
// room.
func TestEvictedHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := limit.NewGate(1)
		process := front.NewProcess(nil, gate)
		config := &tls.Config{Certificates: []tls.Certificate{certificate(t, 0)}}
		b := newBench(t, front.Limits{Connections: 4, PerSource: 1, HandshakeTime: time.Minute}, process, config)
		source := limit.PrefixOf("192.0.2.1")
		if !gate.Enter(t.Context(), source, false) {
			t.Fatal("the gate is full")
		}
		handshake := func(conn net.Conn) chan error {
			done := make(chan error, 1)
			go func() {
				done <- tls.Client(newAnsweredConn(conn, nil), &tls.Config{InsecureSkipVerify: true}).HandshakeContext(t.Context())
			}()
			synctest.Wait()
			return done
		}
		first := handshake(b.dial("192.0.2.1:1"))
		second := handshake(b.dial("192.0.2.1:2")) // takes the place of the first
		if err := <-first; err == nil {
			t.Error("the first handshake succeeds without a connection")
		}
		synctest.Wait()
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		if n := bytes.Count(stacks, []byte("limit.(*Gate).Enter(")); n != 1 {
			t.Errorf("%d handshakes wait, want only the second:\n%s", n, stacks)
		}
		gate.Leave(source, false)
		if err := <-second; err != nil {
			t.Errorf("the second handshake: got %v, want none", err)
		}
	})
}

// TestSmallRecords sends a request in many small TLS records. Its connection is closed unless a caller has
// authenticated on it.
func TestSmallRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		process := front.NewProcess(nil, nil)
		s := serveSite(t, ample, process, &tls.Config{Certificates: []tls.Certificate{certificate(t, 0)}})
		connect := func(source string) *tls.Conn {
			return tls.Client(newAnsweredConn(s.dial(source), nil), &tls.Config{InsecureSkipVerify: true})
		}
		request := func(c *tls.Conn, path string, size int) bool {
			text := "GET " + path + " HTTP/1.1\r\nHost: kms.example\r\nA: " + strings.Repeat("a", 300) + "\r\n\r\n"
			for ; len(text) > size; text = text[size:] {
				if _, err := c.Write([]byte(text[:size])); err != nil {
					return false
				}
			}
			return send(c, text) == http.StatusOK
		}
		if !request(connect("192.0.2.1:1"), "/", 8) {
			t.Error("a request in 45 records is not answered")
		}
		if request(connect("192.0.2.1:2"), "/", 1) {
			t.Error("a request in 350 records is answered")
		}
		c := connect("192.0.2.1:3")
		if !request(c, "/in", 300) || !request(c, "/in", 1) {
			t.Error("an authenticated connection: a request in 350 records is not answered")
		}
		if counts := process.Counts(); counts.Records != 1 || counts.Malformed != 0 || counts.Open != 1 {
			t.Errorf("got %+v, want one connection closed because of its records, and one open", counts)
		}
	})
}

// A silentConn does not read before end is closed.
type silentConn struct {
	net.Conn
	end chan struct{}
}

func (c silentConn) Read([]byte) (int, error) {
	<-c.end
	return 0, net.ErrClosed
}

// TestEachHalfWaits checks that the server waits for a slot again before it computes the second half of a
// handshake: after a HelloRetryRequest, and in TLS 1.2.
func TestEachHalfWaits(t *testing.T) {
	for name, client := range map[string]*tls.Config{
		"HelloRetryRequest": {CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256}},
		"TLS 1.2":           {MaxVersion: tls.VersionTLS12},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				gate := limit.NewGate(1)
				b := newBench(t, ample, front.NewProcess(nil, gate), &tls.Config{
					Certificates: []tls.Certificate{certificate(t, 0)}, CurvePreferences: []tls.CurveID{tls.CurveP256}})
				client.InsecureSkipVerify = true
				if err := tls.Client(newAnsweredConn(b.dial("192.0.2.1:1"), nil), client).HandshakeContext(t.Context()); err != nil {
					t.Fatalf("while a slot is free: got %v, want a handshake", err)
				}
				elsewhere := limit.PrefixOf("198.51.100.1")
				begun := false
				answered := newAnsweredConn(b.dial("192.0.2.1:2"), func() {
					begun = true
					if !gate.Enter(t.Context(), elsewhere, false) {
						t.Error("the slot was not freed before the server wrote")
					}
				})
				began := time.Now()
				if err := tls.Client(answered, client).HandshakeContext(t.Context()); err == nil || time.Since(began) != limit.GateTime {
					t.Errorf("got %v after %v, want an error after %v", err, time.Since(began), limit.GateTime)
				}
				if !begun {
					t.Fatal("the server has not answered the first half")
				}
				gate.Leave(elsewhere, false)
			})
		})
	}
}

// An answeredConn calls then when the first answer has arrived. It takes what the server writes at once, as
// a network does: on a net.Pipe, a client and a server that both write would wait for each other.
type answeredConn struct {
	net.Conn
	then    func()
	arrived chan []byte
	rest    []byte
}

func newAnsweredConn(conn net.Conn, then func()) *answeredConn {
	c := &answeredConn{Conn: conn, then: then, arrived: make(chan []byte, 100)}
	go func() {
		defer close(c.arrived)
		for {
			p := make([]byte, 4096)
			n, err := conn.Read(p)
			if err != nil {
				return
			}
			c.arrived <- p[:n]
		}
	}()
	return c
}

func (c *answeredConn) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		var ok bool
		if c.rest, ok = <-c.arrived; !ok {
			return 0, net.ErrClosed
		}
		if c.then != nil {
			c.then()
			c.then = nil
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}
