package servercert_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/internal/ca"
	"github.com/kmsgate/kmsgate/internal/servercert"
	"github.com/kmsgate/kmsgate/internal/servercert/servercerttest"
)

const day = 24 * time.Hour

// A bench has Certificates, and the log and the clock that they use.
type bench struct {
	*servercert.Certificates
	t         *testing.T
	ahead     atomic.Int64 // how far the wall clock is ahead, in nanoseconds
	doubtful  atomic.Bool  // the clock cannot be believed
	log       safeBuffer
	authority *ca.Authority          // nil if the certificate is an operator's
	issuer    *servercerttest.Issuer // of the operator's certificate
	dir       string                 // of the operator's files
}

// A safeBuffer is a log that is read while it is written.
type safeBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// count returns the number of lines that contain text.
func (b *safeBuffer) count(text string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for line := range strings.Lines(b.text.String()) {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

func (b *bench) config() servercert.Config {
	return servercert.Config{
		Now:    func() time.Time { return time.Now().Add(time.Duration(b.ahead.Load())) },
		Logger: slog.New(slog.NewTextHandler(&b.log, nil)),

		Believed: func() bool { return !b.doubtful.Load() },
	}
}

// issued returns a bench whose certificate a CA issues. The CA is created now.
func issued(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t}
	dir := t.TempDir()
	var err error
	if b.authority, err = ca.Create(filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca-key.pem")); err != nil {
		t.Fatal(err)
	}
	c := b.config()
	c.CA = b.authority
	b.Certificates = servercert.New(c)
	return b
}

// operators returns a bench with an operator's certificate, which change changes before it is
// signed, unless change is nil.
func operators(t *testing.T, change func(*x509.Certificate)) *bench {
	t.Helper()
	b := &bench{t: t, issuer: servercerttest.NewIssuer(t), dir: t.TempDir()}
	b.replace(b.issuer.Issue(t, change))
	c := b.config()
	c.CertificateFile, c.KeyFile = b.path("cert"), b.path("key")
	b.Certificates = servercert.New(c)
	return b
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

// replace replaces the operator's files.
func (b *bench) replace(certificate, key []byte) {
	b.t.Helper()
	servercerttest.Replace(b.t, b.path("cert"), certificate)
	servercerttest.Replace(b.t, b.path("key"), key)
}

func (b *bench) start() {
	b.t.Helper()
	if err := b.Start([]string{"localhost"}); err != nil {
		b.t.Fatal(err)
	}
}

// run runs the Certificates in the background until the test ends.
func (b *bench) run() {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b.Run(ctx)
	}()
	b.t.Cleanup(func() {
		stop()
		<-ended
	})
}

// jump sets the wall clock forward.
func (b *bench) jump(d time.Duration) { b.ahead.Add(int64(d)) }

// now returns the time of the wall clock.
func (b *bench) now() time.Time { return b.config().Now() }

// leaf returns the certificate in use.
func (b *bench) leaf() *x509.Certificate {
	b.t.Helper()
	c, err := b.GetCertificate(nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return c.Leaf
}

// expectSame and expectReplaced compare the certificate in use with an earlier one.
func (b *bench) expectSame(moment string, earlier *x509.Certificate) {
	b.t.Helper()
	if !b.leaf().Equal(earlier) {
		b.t.Errorf("%s: the certificate was replaced, want the earlier one", moment)
	}
}

func (b *bench) expectReplaced(moment string, earlier *x509.Certificate) {
	b.t.Helper()
	if b.leaf().Equal(earlier) {
		b.t.Errorf("%s: the certificate was not replaced; the log:\n%s", moment, b.log.String())
	}
}

func (b *bench) expectLines(moment, text string, want int) {
	b.t.Helper()
	if n := b.log.count(text); n != want {
		b.t.Errorf("%s: the log has %d lines with %q, want %d:\n%s", moment, n, text, want, b.log.String())
	}
}

// TestBeforeStart tests that nothing works before Start, and that nothing fails either.
func TestBeforeStart(t *testing.T) {
	b := issued(t)
	if c, err := b.GetCertificate(nil); err == nil {
		t.Errorf("GetCertificate: got %v, want an error", c)
	}
	b.Reload()
	if !b.Expiry().IsZero() || b.Detail() != "" || len(b.Warnings()) != 0 {
		t.Errorf("got expiry %v, detail %q, warnings %v, want none", b.Expiry(), b.Detail(), b.Warnings())
	}
}
