package servercert_test

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/internal/servercert"
	"github.com/kmsgate/kmsgate/internal/servercert/servercerttest"
)

// refusals are files that clients would not accept, and what the log says of them.
var refusals = map[string]struct {
	spoil func(t *testing.T, b *bench)
	want  string
}{
	"another certificate's key": {func(t *testing.T, b *bench) {
		certificate, _ := b.issuer.Issue(t, nil)
		servercerttest.Replace(t, b.path("cert"), certificate)
	}, "tls.key: does not match tls.certificate"},
	"expired": {func(t *testing.T, b *bench) {
		b.replace(b.issuer.Issue(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }))
	}, "tls.certificate: the certificate expired at 1999-12-31T23:59:00Z (renew it)"},
	"not yet valid": {func(t *testing.T, b *bench) {
		b.replace(b.issuer.Issue(t, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }))
	}, "tls.certificate: the certificate is not valid before 2000-01-01T01:00:00Z"},
	"expires sooner": {func(t *testing.T, b *bench) {
		b.replace(b.issuer.Issue(t, func(c *x509.Certificate) { c.NotAfter = b.leaf().NotAfter.Add(-time.Hour) }))
	}, "sooner than the one in use, which expires at 2000-03-31T00:00:00Z (install one that expires later"},
	"common name only": {func(t *testing.T, b *bench) {
		b.replace(b.issuer.Issue(t, func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = nil, nil }))
	}, "tls.certificate: the certificate has no subject alternative name (SAN)"},
	"for clients": {func(t *testing.T, b *bench) {
		b.replace(b.issuer.Issue(t, func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}))
	}, "its extended key usage has no serverAuth, only clientAuth"},
	"encrypted": {func(t *testing.T, b *bench) {
		certificate, _ := b.issuer.Issue(t, nil)
		b.replace(certificate, pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")}))
	}, "tls.key: the private key is encrypted"},
	"encrypted in the old format": {func(t *testing.T, b *bench) {
		certificate, _ := b.issuer.Issue(t, nil)
		b.replace(certificate, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte("x"),
			Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-256-CBC,00"}}))
	}, "tls.key: the private key is encrypted"},
	"half a file": {func(t *testing.T, b *bench) {
		certificate, key := b.issuer.Issue(t, nil)
		b.replace(certificate[:len(certificate)/2], key)
	}, "tls.certificate: the file has no certificate"},
	"no key": {func(t *testing.T, b *bench) {
		if err := os.Remove(b.path("key")); err != nil {
			t.Fatal(err)
		}
	}, "tls.key: open"},
}

// TestRefused tests that Run refuses files that clients would not accept, with one line in the log
// for each content, and takes the right ones afterwards.
func TestRefused(t *testing.T) {
	for name, tc := range refusals {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := operators(t, nil)
				b.start()
				first := b.leaf()
				b.run()
				synctest.Wait()
				tc.spoil(t, b)
				time.Sleep(25 * time.Second)
				b.expectSame("after two looks", first)
				b.expectLines("after two looks", "the files of the server's certificate were refused", 1)
				b.expectLines("after two looks", tc.want, 1)
				if detail := b.Detail(); !strings.Contains(detail, tc.want) {
					t.Errorf("got the detail %q, want %q", detail, tc.want)
				}
				b.Reload()
				b.expectLines("after Reload, which logs its result", tc.want, 2)
				b.replace(b.issuer.Issue(t, nil))
				time.Sleep(15 * time.Second)
				b.expectReplaced("after the right files", first)
				b.expectLines("after the right files", "the server's certificate was replaced", 1)
				if detail := b.Detail(); detail != "" {
					t.Errorf("after the right files: got the detail %q, want none", detail)
				}
			})
		})
	}
}

// TestPipe tests that a pipe, which would block its reader, is refused.
func TestPipe(t *testing.T) {
	b := operators(t, nil)
	b.start()
	if err := errors.Join(os.Remove(b.path("key")), syscall.Mkfifo(b.path("key"), 0o600)); err != nil {
		t.Fatal(err)
	}
	b.Reload()
	b.expectLines("after Reload", "is not a regular file", 1)
}

// TestValidLater tests that files that were refused because the certificate was not valid yet are
// taken when it is.
func TestValidLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := operators(t, nil)
		b.start()
		first := b.leaf()
		b.run()
		synctest.Wait()
		b.replace(b.issuer.Issue(t, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }))
		time.Sleep(59 * time.Minute)
		b.expectSame("too early", first)
		time.Sleep(2 * time.Minute)
		b.expectReplaced("in time", first)
		b.expectLines("in time", "were refused", 1)
	})
}

// TestLoad tests that Load returns all faults of both files at once.
func TestLoad(t *testing.T) {
	b := operators(t, nil)
	certificate, err := servercert.Load(b.path("cert"), b.path("key"), time.Now())
	if err != nil || certificate.Leaf == nil {
		t.Fatalf("Load: got %v, want a certificate with its Leaf", err)
	}
	b.replace(b.issuer.Issue(t, func(c *x509.Certificate) {
		c.NotAfter, c.DNSNames, c.IPAddresses = time.Now().Add(-time.Minute), nil, nil
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	}))
	servercerttest.Replace(t, b.path("key"), []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"))
	_, err = servercert.Load(b.path("cert"), b.path("key"), time.Now())
	var faults servercert.Faults
	if !errors.As(err, &faults) || len(faults) != 2 || faults[0].Field != "tls.certificate" || faults[1].Field != "tls.key" {
		t.Fatalf("Load: got %v, want a fault of each file", err)
	}
	for _, want := range []string{"expired at", "no subject alternative name", "has no serverAuth", "openssl pkey -in " + b.path("key")} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("Load: got %v, want %q", err, want)
		}
	}
	// A certificate without the extension is for every usage.
	b.replace(b.issuer.Issue(t, func(c *x509.Certificate) { c.ExtKeyUsage = nil }))
	if _, err := servercert.Load(b.path("cert"), b.path("key"), time.Now()); err != nil {
		t.Errorf("Load of a certificate without extended key usage: %v", err)
	}
}
