package front_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/gateway/front"
)

var ample = front.Limits{Connections: 100, PerSource: 100, HandshakeTime: 10 * time.Second}

// TestLimits checks the limits per source and in total. A connection beyond them is closed,
// and closing an accepted one makes room for another.
func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, front.Limits{Connections: 4, PerSource: 2}, front.NewProcess(), nil)
		var open []net.Conn
		for _, tc := range []struct {
			source string
			want   bool
		}{
			{"192.0.2.1:1", true}, {"192.0.2.1:2", true}, {"[::ffff:192.0.2.1]:3", false},
			{"[2001:db8::1]:1", true}, {"[2001:db8::2]:1", true}, {"[2001:db8::3]:1", false},
			{"192.0.2.2:1", false}, // the listener has its four connections
		} {
			client, server := b.talk(tc.source)
			if (server != nil) != tc.want {
				t.Errorf("connection from %s: accepted is %v, want %v", tc.source, server != nil, tc.want)
			}
			if server == nil {
				wantClosed(t, "the refused connection from "+tc.source, client)
				continue
			}
			open = append(open, server)
		}
		for range 2 {
			open[0].Close() // closing it again must not make more room
		}
		if _, server := b.talk("192.0.2.1:4"); server == nil {
			t.Error("after a connection was closed, another from the same source is refused")
		}
		if _, server := b.talk("192.0.2.2:2"); server != nil {
			t.Error("one connection was closed, but two more are accepted")
		}
		open[2].Close()
		if _, server := b.talk("192.0.2.2:3"); server == nil {
			t.Error("after a connection was closed, one from another source is refused")
		}
	})
}

// TestProcess checks that all listeners together accept half as many connections as the
// process may have files open.
func TestProcess(t *testing.T) {
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	lowered := before
	lowered.Cur = 128
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &lowered); err != nil {
		t.Fatal(err)
	}
	process := front.NewProcess()
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		benches := []*bench{newBench(t, ample, process, nil), newBench(t, ample, process, nil)}
		var last net.Conn
		for i := range 64 {
			if _, last = benches[i%2].talk(fmt.Sprintf("192.0.2.%d:1", i)); last == nil {
				t.Fatalf("connection %d is refused, want 64 accepted", i+1)
			}
		}
		for _, b := range benches {
			if client, server := b.talk("198.51.100.1:1"); server != nil {
				t.Error("a 65th connection is accepted")
			} else {
				wantClosed(t, "the 65th connection", client)
			}
		}
		last.Close()
		if _, server := benches[0].talk("198.51.100.1:2"); server == nil {
			t.Error("after a connection was closed, another is refused")
		}
	})
}

// TestSilent checks that connections which send nothing delay no other. They count against
// the limits until they are closed after their time.
func TestSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := front.Limits{Connections: 4, PerSource: 4, HandshakeTime: 10 * time.Second}
		config := &tls.Config{Certificates: []tls.Certificate{certificate(t, 0)}}
		b := newBench(t, limits, front.NewProcess(), config)
		silent := []net.Conn{b.dial("192.0.2.1:1"), b.dial("192.0.2.1:2"), b.dial("192.0.2.1:3")}
		go func() { _, _ = silent[2].Write([]byte{0x16}) }() // a handshake that stops after one byte
		if _, server := b.talk("192.0.2.1:4"); server == nil {
			t.Fatal("with three silent connections open, a fourth that sends a request is not accepted")
		}
		if _, server := b.talk("192.0.2.1:5"); server != nil {
			t.Fatal("a fifth connection is accepted: silent connections do not count against the limit")
		}
		time.Sleep(11 * time.Second)
		for i, client := range silent {
			wantClosed(t, fmt.Sprint("silent connection ", i), client)
		}
		if len(b.accepted) != 0 {
			t.Error("a silent connection is accepted")
		}
		if _, server := b.talk("192.0.2.1:6"); server == nil {
			t.Error("after silent connections were closed, another connection is refused")
		}
	})
}

// TestTLS checks that the listener tells TLS from plain HTTP. A TLS connection has completed
// its handshake when it is accepted, and a plain one has lost no byte.
func TestTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, ample, front.NewProcess(), &tls.Config{
			Certificates: []tls.Certificate{certificate(t, 0)},
			ClientAuth:   tls.RequireAnyClientCert,
		})
		client, plain := b.talk("192.0.2.1:1")
		if plain == nil {
			t.Fatal("plain HTTP is not accepted")
		}
		if _, ok := plain.(*tls.Conn); ok {
			t.Error("a plain HTTP connection is a *tls.Conn")
		}
		first := make([]byte, 16)
		if _, err := io.ReadFull(plain, first); err != nil || string(first) != "GET / HTTP/1.1\r\n" {
			t.Errorf("plain HTTP: got %q, %v, want the first line of the request", first, err)
		}
		time.Sleep(time.Minute) // the deadline for the first byte must not apply to later ones
		go func() { _, _ = io.WriteString(client, "H") }()
		if _, err := io.ReadFull(plain, first[:1]); err != nil || first[0] != 'H' {
			t.Errorf("plain HTTP a minute later: got %q, %v, want \"H\"", first[:1], err)
		}
		handshake := func(length int) (*tls.Conn, error) {
			config := &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{certificate(t, length)}}
			tlsConn := tls.Client(b.dial("192.0.2.1:2"), config)
			err := tlsConn.HandshakeContext(t.Context())
			synctest.Wait()
			return tlsConn, err
		}
		tlsConn, err := handshake(10_000)
		if err != nil || len(b.accepted) != 1 {
			t.Fatalf("TLS: got %d accepted connections, %v, want 1", len(b.accepted), err)
		}
		server, ok := (<-b.accepted).(*tls.Conn)
		if !ok || !server.ConnectionState().HandshakeComplete || len(server.ConnectionState().PeerCertificates) != 1 {
			t.Fatalf("got a %T, want a *tls.Conn with its handshake complete and one certificate", server)
		}
		// The limit on the handshake must not apply to the data after it.
		sent := bytes.Repeat([]byte("request "), 10_000)
		go func() { _, _ = tlsConn.Write(sent) }()
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(server, got); err != nil || !bytes.Equal(got, sent) {
			t.Errorf("reading %d bytes after the handshake: got %v, want them unchanged", len(sent), err)
		}
		tlsConn, _ = handshake(24 << 10) // in TLS 1.3 the client completes it before the server does
		if len(b.accepted) != 0 {
			t.Error("a connection with too large a handshake is accepted")
		}
		if _, err := tlsConn.Read(make([]byte, 1)); err == nil {
			t.Error("a connection with too large a handshake is not closed")
		}
	})
}

// TestAcceptFails checks that the listener survives temporary errors, and that any other
// error ends it.
func TestAcceptFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, ample, front.NewProcess(), nil)
		for range 3 {
			b.network.errs <- syscall.EMFILE
		}
		if _, server := b.talk("192.0.2.1:1"); server == nil {
			t.Error("after temporary errors no connection is accepted")
		}
		b.network.errs <- errBroken
		if conn, err := b.Accept(); !errors.Is(err, errBroken) {
			t.Errorf("Accept: got %v, %v, want error %v", conn, err, errBroken)
		}
	})
}

// TestClose checks that Close ends Accept, and closes a connection that was never accepted.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		l := front.Listen(n, nil, ample, front.NewProcess())
		client, server := net.Pipe()
		n.conns <- remoteConn{server, "192.0.2.1:1"}
		go func() { _, _ = io.WriteString(client, "GET") }()
		synctest.Wait() // it has sent its first bytes, but Accept was not called
		for range 2 {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept: got error %v, want %v", err, net.ErrClosed)
		}
		wantClosed(t, "a connection that was not accepted", client)
	})
}
