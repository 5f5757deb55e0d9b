package front_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/gateway/front"
	"github.com/kmsgate/kmsgate/gateway/limit"
)

var ample = front.Limits{Connections: 100, PerSource: 100, HandshakeTime: 10 * time.Second}

// TestLimits checks the limits per source and in total. For a connection beyond them, the oldest
// one is closed. Unknown sources share three quarters of the connections.
func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, front.Limits{Connections: 5, PerSource: 2}, front.NewProcess(nil, nil), nil)
		names := make(map[net.Conn]string)
		var open []net.Conn
		for _, tc := range []struct {
			source string
			closed string // what makes room
		}{
			{"192.0.2.1:1", ""}, {"192.0.2.1:2", ""},
			{"[::ffff:192.0.2.1]:3", "192.0.2.1:1"},
			{"[2001:db8::1]:1", ""}, {"[2001:db8::2]:1", ""}, // four connections
			{"[2001:db8::3]:1", "[2001:db8::1]:1"},
			{"192.0.2.2:1", "192.0.2.1:2"}, // the oldest of all
			{"192.0.2.3:1", "[::ffff:192.0.2.1]:3"},
		} {
			client, server := b.talk(tc.source)
			if server == nil {
				t.Fatalf("the connection from %s is not accepted", tc.source)
			}
			names[client] = tc.source
			open = append(open, client)
			for i, c := range open {
				if closed := names[c] == tc.closed; isOpen(c) == closed {
					t.Errorf("after the connection from %s: that from %s is open: %v, want %v", tc.source, names[c], closed, !closed)
				} else if closed {
					open = append(open[:i:i], open[i+1:]...)
				}
			}
		}
	})
}

// TestNoConnections checks that limits of zero admit no connection.
func TestNoConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, limits := range []front.Limits{{Connections: 1}, {PerSource: 1}} {
			b := newBench(t, limits, front.NewProcess(nil, nil), nil)
			client, server := b.talk("192.0.2.1:1")
			if server != nil {
				t.Errorf("%+v: a connection is accepted, want none", limits)
			}
			wantClosed(t, "the refused connection", client)
		}
	})
}

// TestProcess checks that all listeners together accept half as many connections as the
// process may have files open, and that the oldest of all makes room.
func TestProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		known := limit.NewKnown()
		process := newProcess(t, 128, known)
		for i := range 64 {
			known.Add(netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/32", i)))
		}
		benches := []*bench{newBench(t, ample, process, nil), newBench(t, ample, process, nil)}
		var clients, servers []net.Conn
		for i := range 64 {
			client, server := benches[i%2].talk(fmt.Sprintf("192.0.2.%d:1", i))
			if server == nil {
				t.Fatalf("connection %d is refused, want 64 accepted", i+1)
			}
			clients, servers = append(clients, client), append(servers, server)
		}
		for _, b := range benches {
			if client, server := b.talk("198.51.100.1:1"); server != nil {
				t.Error("a 65th connection, from an unknown source, is accepted")
			} else {
				wantClosed(t, "the 65th connection", client)
			}
		}
		if _, server := benches[1].talk("192.0.2.1:2"); server == nil || isOpen(clients[0]) || !isOpen(clients[1]) {
			t.Error("a 65th connection from a known source: it is not accepted, or another than the oldest is closed")
		}
		servers[63].Close()
		servers[63].Close() // closing it again must not make more room
		if _, server := benches[0].talk("198.51.100.1:2"); server == nil {
			t.Error("after a connection was closed, another is refused")
		}
		if counts := process.Counts(); counts.Open != 64 || counts.Evicted != 1 || counts.Full != 2 {
			t.Errorf("got %+v, want 64 open, 1 evicted, 2 times full", counts)
		}
	})
}

// newProcess returns a Process that was made while the process could have that many files open.
func newProcess(t *testing.T, files uint64, known *limit.Known) *front.Process {
	t.Helper()
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	lowered := before
	lowered.Cur = files
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &lowered); err != nil {
		t.Fatal(err)
	}
	process := front.NewProcess(known, nil)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	return process
}

// TestSilent checks that connections which send nothing delay no other. They count against
// the limits until they are closed after their time.
func TestSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := front.Limits{Connections: 100, PerSource: 4, HandshakeTime: 10 * time.Second}
		config := &tls.Config{Certificates: []tls.Certificate{certificate(t, 0)}}
		process := front.NewProcess(nil, nil)
		b := newBench(t, limits, process, config)
		silent := []net.Conn{b.dial("192.0.2.1:1"), b.dial("192.0.2.1:2"), b.dial("192.0.2.1:3")}
		go func() { _, _ = silent[2].Write([]byte{0x16}) }() // a handshake that stops after one byte
		if _, server := b.talk("192.0.2.1:4"); server == nil {
			t.Fatal("with three silent connections open, a fourth that sends a request is not accepted")
		}
		if _, server := b.talk("192.0.2.1:5"); server == nil || isOpen(silent[0]) || !isOpen(silent[1]) {
			t.Fatal("a fifth connection is not accepted, or another than the first is closed for it")
		}
		time.Sleep(11 * time.Second)
		for i, client := range silent {
			wantClosed(t, fmt.Sprint("silent connection ", i), client)
		}
		if len(b.accepted) != 0 {
			t.Error("a silent connection is accepted")
		}
		if counts := process.Counts(); counts.Open != 2 || counts.Evicted != 1 || counts.Handshakes != 1 {
			t.Errorf("got %+v, want 2 open, 1 evicted, 1 failed handshake", counts)
		}
	})
}

// A connectionStater is what net/http expects of a TLS connection that is no *tls.Conn.
type connectionStater interface{ ConnectionState() tls.ConnectionState }

// TestTLS checks that the listener tells TLS from plain HTTP. A TLS connection has completed
// its handshake when it is accepted, and a plain one has lost no byte.
func TestTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, ample, front.NewProcess(nil, nil), &tls.Config{
			Certificates: []tls.Certificate{certificate(t, 0)},
			ClientAuth:   tls.RequireAnyClientCert,
		})
		client, plain := b.talk("192.0.2.1:1")
		if plain == nil {
			t.Fatal("plain HTTP is not accepted")
		}
		if _, ok := plain.(connectionStater); ok {
			t.Error("a plain HTTP connection has a TLS state")
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
		server := <-b.accepted
		stater, ok := server.(connectionStater)
		if !ok || !stater.ConnectionState().HandshakeComplete || len(stater.ConnectionState().PeerCertificates) != 1 {
			t.Fatalf("got a %T, want a TLS connection with its handshake complete and one certificate", server)
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
		b := newBench(t, ample, front.NewProcess(nil, nil), nil)
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
		l := front.Listen(n, nil, ample, front.NewProcess(nil, nil))
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
