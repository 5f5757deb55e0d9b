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

// TestLimits holds sources and all together to their connections. A refused one is
// closed, and one that is closed makes room.
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
			{"192.0.2.2:1", false}, // all are taken
		} {
			client, server := b.talk(tc.source)
			if (server != nil) != tc.want {
				t.Errorf("%s is accepted: %v", tc.source, server != nil)
			}
			if server == nil {
				wantClosed(t, tc.source, client)
				continue
			}
			open = append(open, server)
		}
		for range 2 {
			open[0].Close() // the second time it counts for nothing
		}
		if _, server := b.talk("192.0.2.1:4"); server == nil {
			t.Error("after one was closed, one from the same source is refused")
		}
		if _, server := b.talk("192.0.2.2:2"); server != nil {
			t.Error("one was closed, and there is room for two")
		}
		open[2].Close()
		if _, server := b.talk("192.0.2.2:3"); server == nil {
			t.Error("after one was closed, one from another source is refused")
		}
	})
}

// TestProcess allows all listeners together half as many connections as the process may
// have files.
func TestProcess(t *testing.T) {
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	few := before
	few.Cur = 128
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few); err != nil {
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
				t.Fatalf("connection %d is refused", i+1)
			}
		}
		for _, b := range benches {
			if client, server := b.talk("198.51.100.1:1"); server != nil {
				t.Error("one connection more is accepted")
			} else {
				wantClosed(t, "one connection more", client)
			}
		}
		last.Close()
		if _, server := benches[0].talk("198.51.100.1:2"); server == nil {
			t.Error("after one was closed, one is refused")
		}
	})
}

// TestSilent: connections that say nothing keep nobody waiting. They are closed in the
// end, and make room.
func TestSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, front.Limits{Connections: 4, PerSource: 4, HandshakeTime: 10 * time.Second}, front.NewProcess(), &tls.Config{Certificates: []tls.Certificate{certificate(t, 0)}})
		silent := []net.Conn{b.dial("192.0.2.1:1"), b.dial("192.0.2.1:2"), b.dial("192.0.2.1:3")}
		go func() { _, _ = silent[2].Write([]byte{0x16}) }() // a handshake that goes no further
		if _, server := b.talk("192.0.2.1:4"); server == nil {
			t.Fatal("behind silent connections one that speaks is not accepted")
		}
		if _, server := b.talk("192.0.2.1:5"); server != nil {
			t.Fatal("silent connections are not counted")
		}
		time.Sleep(11 * time.Second)
		for i, client := range silent {
			wantClosed(t, fmt.Sprint("silent connection ", i), client)
		}
		if len(b.accepted) != 0 {
			t.Error("a silent connection is accepted")
		}
		if _, server := b.talk("192.0.2.1:6"); server == nil {
			t.Error("silent connections that are closed make no room")
		}
	})
}

// TestTLS tells TLS from plain HTTP. The one has done its handshake when it is accepted,
// and of the other no byte is lost.
func TestTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, ample, front.NewProcess(), &tls.Config{Certificates: []tls.Certificate{certificate(t, 0)}, ClientAuth: tls.RequireAnyClientCert})
		client, plain := b.talk("192.0.2.1:1")
		if plain == nil {
			t.Fatal("plain HTTP is not accepted")
		}
		if _, ok := plain.(*tls.Conn); ok {
			t.Error("plain HTTP is taken for TLS")
		}
		first := make([]byte, 16)
		if _, err := io.ReadFull(plain, first); err != nil || string(first) != "GET / HTTP/1.1\r\n" {
			t.Errorf("plain HTTP begins with %q, %v", first, err)
		}
		time.Sleep(time.Minute) // the time for its first byte does not bound the others
		go func() { _, _ = io.WriteString(client, "H") }()
		if _, err := io.ReadFull(plain, first[:1]); err != nil || first[0] != 'H' {
			t.Errorf("plain HTTP goes on with %q, %v", first[:1], err)
		}
		handshake := func(length int) (*tls.Conn, error) {
			secure := tls.Client(b.dial("192.0.2.1:2"), &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{certificate(t, length)}})
			err := secure.HandshakeContext(t.Context())
			synctest.Wait()
			return secure, err
		}
		secure, err := handshake(10_000)
		if err != nil || len(b.accepted) != 1 {
			t.Fatalf("TLS is not accepted: %v", err)
		}
		server, ok := (<-b.accepted).(*tls.Conn)
		if !ok || !server.ConnectionState().HandshakeComplete || len(server.ConnectionState().PeerCertificates) != 1 {
			t.Fatalf("%T, without its handshake or its certificate", server)
		}
		// What comes after the handshake can be as much as it likes.
		sent := bytes.Repeat([]byte("request "), 10_000)
		go func() { _, _ = secure.Write(sent) }()
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(server, got); err != nil || !bytes.Equal(got, sent) {
			t.Errorf("of %d bytes after the handshake: %v", len(sent), err)
		}
		secure, _ = handshake(24 << 10) // TLS 1.3's client is done before the server is
		if len(b.accepted) != 0 {
			t.Error("a handshake that is too long is accepted")
		}
		if _, err := secure.Read(make([]byte, 1)); err == nil {
			t.Error("a connection whose handshake is too long is kept")
		}
	})
}

// TestAcceptFails: what is temporary is waited out, and what is not ends the listener.
func TestAcceptFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, ample, front.NewProcess(), nil)
		for range 3 {
			b.network.errs <- syscall.EMFILE
		}
		if _, server := b.talk("192.0.2.1:1"); server == nil {
			t.Error("after temporary errors none is accepted")
		}
		b.network.errs <- errBroken
		if conn, err := b.Accept(); !errors.Is(err, errBroken) {
			t.Errorf("%v, %v, want the network's error", conn, err)
		}
	})
}

// TestClose ends Accept, and a connection that nobody accepted any more.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		l := front.Listen(n, nil, ample, front.NewProcess())
		client, server := net.Pipe()
		n.conns <- from{server, "192.0.2.1:1"}
		go func() { _, _ = io.WriteString(client, "GET") }()
		synctest.Wait() // it has spoken, and is not accepted
		for range 2 {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept: %v", err)
		}
		wantClosed(t, "a connection that was not accepted", client)
	})
}
