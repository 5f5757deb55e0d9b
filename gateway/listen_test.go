package gateway_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/gateway"
)

// serve serves the bench's gateway on a port of its own, as the product does.
func (b *bench) serve() (address string, roots *x509.CertPool) {
	b.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	config := &tls.Config{Certificates: b.http.TLS.Certificates}
	go func() { ended <- b.server.Serve(ctx, l, config, b.listener) }()
	b.t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			b.t.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String(), pool(b)
}

// pool trusts the bench's own certificate, which is for example.com.
func pool(b *bench) *x509.CertPool {
	roots := x509.NewCertPool()
	roots.AddCert(b.http.Certificate())
	return roots
}

func client(roots *x509.CertPool) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "example.com"}}}
}

// TestOnePort: TLS and plain HTTP on one port, each with its answer.
func TestOnePort(t *testing.T) {
	b := newBench(t)
	address, roots := b.serve()
	query := "/?" + b.sign(b.root, "GET", "ListKeys", nil).Encode()
	resp, err := http.Get("http://" + address + query)
	if err != nil {
		t.Fatal(err)
	}
	b.want(readAnswer(t, resp), 404, "InvalidProtocol.NeedSsl")
	resp, err = client(roots).Get("https://" + address + query)
	if err != nil {
		t.Fatal(err)
	}
	if resp.TLS.Version != tls.VersionTLS13 || resp.ProtoMajor != 1 {
		t.Errorf("TLS %x, %s", resp.TLS.Version, resp.Proto)
	}
	b.want(readAnswer(t, resp), 200, "")
}

// TestGarbage throws what is neither TLS nor HTTP at the port, and connections
// that say nothing, and goes on.
func TestGarbage(t *testing.T) {
	b := newBench(t)
	address, roots := b.serve()
	for _, garbage := range []string{"\x00\x00\x00", "\x16\x03\x01\xff\xff garbage", "SSH-2.0-x\r\n", "GET / HTTP/9.9\r\n\r\n", "\x16", strings.Repeat("A", 300_000)} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, garbage) // the other end may hang up before it has all
		conn.(*net.TCPConn).CloseWrite()
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%.10q: the connection was kept", garbage)
		}
		conn.Close()
	}
	silent, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	resp, err := client(roots).Get("https://" + address + "/?" + b.sign(b.root, "GET", "ListKeys", nil).Encode())
	if err != nil {
		t.Fatal(err)
	}
	b.want(readAnswer(t, resp), 200, "")
}

// TestConnectionsPerSource: one source cannot take all connections, and gets
// them back when it closes some.
func TestConnectionsPerSource(t *testing.T) {
	b := newBench(t)
	address, _ := b.serve()
	dial := func() net.Conn {
		t.Helper()
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	answered := func(conn net.Conn) bool {
		t.Helper()
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: h\r\n\r\n") // hung up on, if refused
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		return err == nil && resp.StatusCode == 404
	}
	var open []net.Conn
	for range gateway.MaxPerSource {
		open = append(open, dial())
	}
	if !answered(open[len(open)-1]) {
		t.Fatal("the last connection that is allowed is not served")
	}
	if answered(dial()) {
		t.Error("one connection more is served")
	}
	for _, conn := range open {
		conn.Close()
	}
	deadline := time.Now().Add(20 * time.Second)
	for !answered(dial()) {
		if time.Now().After(deadline) {
			t.Fatal("after the others were closed a connection is not served")
		}
	}
}
