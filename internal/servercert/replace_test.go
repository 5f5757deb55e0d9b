package servercert_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/internal/servercert/servercerttest"
)

// present serves a byte on each TLS connection, with the certificate in use, until the test ends.
func (b *bench) present() (address string) {
	b.t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: b.GetCertificate})
	if err != nil {
		b.t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				_, _ = conn.Write([]byte{1}) // does the handshake; the client reports a failure
				_ = conn.Close()
			})
		}
	})
	b.t.Cleanup(func() {
		if err := l.Close(); err != nil {
			b.t.Error(err)
		}
		serving.Wait()
	})
	return l.Addr().String()
}

// connect does a handshake, reads the byte, and returns the server's certificate.
func connect(address string, roots *x509.CertPool) (*x509.Certificate, error) {
	dialer := &net.Dialer{Timeout: time.Minute}
	conn, err := tls.DialWithDialer(dialer, "tcp", address, &tls.Config{RootCAs: roots})
	if err != nil {
		return nil, err
	}
	_, err = io.ReadFull(conn, make([]byte, 1))
	_ = conn.Close() // the server closes, too
	return conn.ConnectionState().PeerCertificates[0], err
}

// A crowd connects again and again.
type crowd struct {
	connected atomic.Int64
	stop      atomic.Bool
	callers   sync.WaitGroup
	mu        sync.Mutex
	failures  []error // guarded by mu
}

func startCrowd(callers int, address string, roots *x509.CertPool) *crowd {
	c := new(crowd)
	for range callers {
		c.callers.Go(func() {
			for !c.stop.Load() {
				if _, err := connect(address, roots); err != nil {
					c.mu.Lock()
					c.failures = append(c.failures, err)
					c.mu.Unlock()
				}
				c.connected.Add(1)
			}
		})
	}
	return c
}

// await waits for n more connections.
func (c *crowd) await(t *testing.T, n int64) {
	t.Helper()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	want := c.connected.Load() + n
	for deadline := time.Now().Add(time.Minute); c.connected.Load() < want; <-poll.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited a minute for %d connections", n)
		}
	}
}

// end stops the callers and returns their failures.
func (c *crowd) end() []error {
	c.stop.Store(true)
	c.callers.Wait()
	return c.failures
}

// TestReplacedUnderLoad replaces an operator's certificate and key, one file after the other, while
// clients connect. No handshake may fail, and after each replacement clients get the new certificate.
func TestReplacedUnderLoad(t *testing.T) {
	b := operators(t, nil)
	b.start()
	address, roots := b.present(), b.issuer.Pool()
	load := startCrowd(8, address, roots)
	t.Cleanup(func() { load.end() })
	for round := range 20 {
		before := b.leaf()
		certificate, key := b.issuer.Issue(t, nil)
		halves := []func(){
			func() { servercerttest.Replace(t, b.path("cert"), certificate) },
			func() { servercerttest.Replace(t, b.path("key"), key) },
		}
		if round%2 == 1 {
			slices.Reverse(halves)
		}
		halves[0]()
		b.Reload()
		b.expectSame("with half of the files", before)
		load.await(t, 16)
		halves[1]()
		b.Reload()
		b.expectReplaced("with both files", before)
		load.await(t, 16)
		if leaf, err := connect(address, roots); err != nil || !leaf.Equal(b.leaf()) {
			t.Fatalf("round %d: a client got another certificate than the one in use, or %v", round, err)
		}
	}
	if failures := load.end(); len(failures) > 0 {
		t.Errorf("%d of %d connections failed, want none; the first: %v", len(failures), load.connected.Load(), failures[0])
	}
}
