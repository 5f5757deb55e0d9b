package gateway_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/gateway"
)

// TestConnectionsPerSource opens more connections than one source may have. The last one is served,
// and so is one from the same source on which a caller has authenticated.
func TestConnectionsPerSource(t *testing.T) {
	b := newBench(t)
	address, roots := b.serve()
	known, err := tls.Dial("tcp", address, &tls.Config{RootCAs: roots, ServerName: "example.com"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { known.Close() })
	ask := func(conn net.Conn, query string) (*http.Response, error) {
		_, _ = fmt.Fprintf(conn, "GET /%s HTTP/1.1\r\nHost: example.com\r\n\r\n", query) // fails if the connection is closed
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		return http.ReadResponse(bufio.NewReader(conn), nil)
	}
	wantKnown := func() {
		t.Helper()
		resp, err := ask(known, "?"+b.sign(b.root, "GET", "ListKeys", nil).Encode())
		if err != nil {
			t.Fatalf("the connection on which a caller has authenticated: %v", err)
		}
		b.want(readAnswer(t, resp), 200, "")
	}
	wantKnown()
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	for range 2 * gateway.MaxPerSource {
		_, _ = io.WriteString(dial(), "GET / HTTP/1.1\r\n") // fails if the connection is closed already
	}
	resp, err := ask(dial(), "")
	if err != nil || resp.StatusCode != 404 || !resp.Close {
		t.Fatalf("another connection of the source: got %+v, %v, want 404, and the connection closed", resp, err)
	}
	resp.Body.Close()
	wantKnown()
	if got := b.metric(`kmsgate_connections_closed_total{reason="source_full"}`); got != "0" {
		t.Errorf("got %s new connections refused, want 0", got)
	}
	b.local("UpdateAccessKey", nil, "AccessKeyId", b.root.AccessKeyId, "Status", "Inactive")
	resp, err = ask(known, "?"+b.sign(b.root, "GET", "ListKeys", nil).Encode())
	if err != nil {
		t.Fatal(err)
	}
	if a := readAnswer(t, resp); a.Status == 200 || !resp.Close {
		t.Errorf("with a disabled access key: got %d, connection closed: %v, want an error and the end of the connection", a.Status, resp.Close)
	}
}

// TestMalformed checks that requests are counted which are refused before they have an audit line.
func TestMalformed(t *testing.T) {
	b := newBench(t)
	address, _ := b.serve()
	malformed := []string{"nonsense\r\n\r\n", "GET / HTTP/9.9\r\nHost: h\r\n\r\n", "GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: h\r\n" + strings.Repeat("a:\r\n", 1000) + "\r\n"}
	for _, request := range malformed {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, request) // the gateway may close the connection before it has read everything
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%.20q: got no end of the connection within 20 s, want it closed", request)
		}
		conn.Close()
	}
	if got, want := b.metric("kmsgate_malformed_requests_total"), fmt.Sprint(len(malformed)); got != want {
		t.Errorf("kmsgate_malformed_requests_total: got %s, want %s", got, want)
	}
}

// A memoryListener accepts the connections that are sent to it.
type memoryListener struct {
	net.Listener // nil
	conns        chan net.Conn
	closed       chan struct{}
	once         *sync.Once
}

func (l memoryListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l memoryListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// TestTooManyConnectionsLogged checks that the log says so when there are too many connections, but
// only once a minute.
func TestTooManyConnectionsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _, log := plainBench(t, 0)
		stop := b.running()
		defer stop()
		l := memoryListener{conns: make(chan net.Conn), closed: make(chan struct{}), once: new(sync.Once)}
		ctx, end := context.WithCancel(context.Background())
		served := make(chan error, 1)
		go func() { served <- b.server.Serve(ctx, l, new(tls.Config), gateway.Listener{MaxPerSource: 1}) }()
		const line = "there were too many connections"
		time.Sleep(500 * time.Millisecond) // the log is written at full seconds
		for _, step := range []struct {
			connections int
			pause       time.Duration
			lines       int
		}{
			{1, 2 * time.Second, 0},
			{10, 2 * time.Second, 1},
			{10, 30 * time.Second, 1},
			{10, 40 * time.Second, 2},
			{0, time.Hour, 2},
		} {
			for range step.connections {
				client, server := net.Pipe()
				t.Cleanup(func() { client.Close() })
				l.conns <- server
			}
			time.Sleep(step.pause)
			synctest.Wait()
			if got := log.count(line); got != step.lines {
				t.Errorf("%d connections later: got %d lines, want %d", step.connections, got, step.lines)
			}
		}
		if got := log.line("closed=19"); !strings.Contains(got, line) {
			t.Errorf("got %q, want a second line about the 19 connections that were closed since the first", got)
		}
		for name, want := range map[string]string{
			`kmsgate_connections_open`:                                "0",
			`kmsgate_connections_unauthenticated`:                     "0",
			`kmsgate_connections_closed_total{reason="evicted"}`:      "29",
			`kmsgate_connections_closed_total{reason="full"}`:         "0",
			`kmsgate_connections_closed_total{reason="source_full"}`:  "0",
			`kmsgate_connections_closed_total{reason="handshake"}`:    "0",
			`kmsgate_connections_closed_total{reason="large_header"}`: "0",
		} {
			if got := b.metric(name); got != want {
				t.Errorf("%s: got %s, want %s", name, got, want)
			}
		}
		end()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}
