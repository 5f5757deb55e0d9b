package gateway_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/adminclient"
	"github.com/kmsgate/kmsgate/gateway/front"
)

// serve serves the bench's gateway on a free port, as the product does.
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

// pool returns a pool with the bench's certificate, which is for example.com.
func pool(b *bench) *x509.CertPool {
	roots := x509.NewCertPool()
	roots.AddCert(b.http.Certificate())
	return roots
}

func client(roots *x509.CertPool) *http.Client {
	config := &tls.Config{RootCAs: roots, ServerName: "example.com"}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
}

// TestOnePort checks that one port answers both TLS and plain HTTP.
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
		t.Errorf("got TLS version %x, %s, want TLS 1.3, HTTP/1", resp.TLS.Version, resp.Proto)
	}
	b.want(readAnswer(t, resp), 200, "")
}

// TestGarbage sends data to the port that is neither TLS nor HTTP, and opens a silent connection.
// The gateway must still serve a client.
func TestGarbage(t *testing.T) {
	b := newBench(t)
	address, roots := b.serve()
	for _, garbage := range []string{
		"\x00\x00\x00", "\x16\x03\x01\xff\xff garbage", "SSH-2.0-x\r\n", "GET / HTTP/9.9\r\n\r\n", "\x16",
		strings.Repeat("A", 300_000),
	} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, garbage) // the gateway may close the connection before it has read everything
		conn.(*net.TCPConn).CloseWrite()
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%.10q: got no end of the connection within 20 s, want it closed", garbage)
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

// TestLateRequests checks that a request whose body comes late counts at the time when it is
// complete. If it counted at the time of its header, it would set the bucket's clock back and
// refill the bucket.
func TestLateRequests(t *testing.T) {
	var arrived atomic.Int32 // how often the gateway read its clock
	var b *bench
	b = newBench(t, func(c *gateway.Config) {
		c.Quotas.DedicatedUser = 10
		c.Now = func() time.Time { arrived.Add(1); return b.now() }
	})
	address, roots := b.serve()
	var late []func() int
	for range 5 {
		late = append(late, b.beginPost(address, roots, &arrived))
	}
	b.clock.move(3 * time.Second)
	passed := 0
	for _, end := range late {
		if end() == 200 {
			passed++
		}
		// These are one fewer than would empty a full bucket: only a request that passes can set
		// the bucket's clock back.
		for range 9 {
			if a := b.do(b.root, "AsymmetricSign", b.signParams()...); a.Status == 200 {
				passed++
			}
		}
	}
	if passed != 10 {
		t.Errorf("got %d requests allowed at one time, want 10, the quota", passed)
	}
}

// now returns the bench's time, also before the bench exists.
func (b *bench) now() time.Time {
	if b == nil {
		return time.Date(2026, 11, 21, 20, 56, 37, 0, time.UTC)
	}
	return b.clock.Now()
}

// beginPost sends a request without the last byte of its body, and waits until the gateway has its
// header. end sends the last byte and returns the status of the answer.
func (b *bench) beginPost(address string, roots *x509.CertPool, arrived *atomic.Int32) (end func() int) {
	b.t.Helper()
	conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: roots, ServerName: "example.com"})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.Close() })
	body := b.sign(b.root, "POST", "AsymmetricSign", params(b.signParams()...)).Encode()
	before := arrived.Load()
	fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Type: application/x-www-form-urlencoded\r\n"+
		"Content-Length: %d\r\n\r\n%s", len(body), body[:len(body)-1])
	b.eventually("the request's header to arrive", func() bool { return arrived.Load() > before })
	return func() int {
		fmt.Fprint(conn, body[len(body)-1:])
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			b.t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
}

// TestListenAdmin checks the mode of the admin socket, and in which directories it is created.
func TestListenAdmin(t *testing.T) {
	dir := socketDir(t)
	path := filepath.Join(dir, "admin.sock")
	mode := func() os.FileMode {
		t.Helper()
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode()
	}
	first, err := front.ListenUnix(path)
	if err != nil || mode() != os.ModeSocket|0o600 {
		t.Fatalf("ListenUnix: got mode %v, %v, want a socket with mode 0600", mode(), err)
	}
	// A process that was killed leaves its socket behind.
	first.(*net.UnixListener).SetUnlinkOnClose(false)
	first.Close()
	second, err := front.ListenUnix(path)
	if err != nil || mode() != os.ModeSocket|0o600 {
		t.Fatalf("ListenUnix over a stale socket: got mode %v, %v, want a socket with mode 0600", mode(), err)
	}
	b := newBench(t)
	b.serveAdmin(second)
	if err := adminclient.Dial(path).Call(t.Context(), "ListUsers", nil, nil); err != nil {
		t.Errorf("ListUsers through the socket: %v", err)
	}
	for _, dirMode := range []os.FileMode{0o755, 0o701, 0o710, 0o770, 0o704} {
		if err := os.Chmod(dir, dirMode); err != nil {
			t.Fatal(err)
		}
		if _, err := front.ListenUnix(filepath.Join(dir, "other.sock")); err == nil || !strings.Contains(err.Error(), "chmod 700") {
			t.Errorf("ListenUnix in a directory with mode %o: got error %v, want one that suggests chmod 700",
				dirMode, err)
		}
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	// A file that is not a socket must stay.
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := front.ListenUnix(file); err == nil {
		t.Error("ListenUnix replaced a file that is not a socket")
	}
	if content, err := os.ReadFile(file); err != nil || string(content) != "mine" {
		t.Errorf("the file: got %q, %v, want \"mine\"", content, err)
	}
}
