package ca_test

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/internal/ca"
)

// files returns the paths of a CA's two files, in a new directory.
func files(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	dir := t.TempDir()
	return filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca-key.pem")
}

func create(t *testing.T, certFile, keyFile string) *ca.Authority {
	t.Helper()
	a, err := ca.Create(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func content(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestCreate tests that Open and Read return the CA that Create returned, and that only its owner
// can read the key.
func TestCreate(t *testing.T) {
	certFile, keyFile := files(t)
	a := create(t, certFile, keyFile)
	if content(t, certFile) != a.Certificate() || strings.Contains(a.Certificate(), "KEY") {
		t.Errorf("the certificate file has %s, want %s", content(t, certFile), a.Certificate())
	}
	if info, err := os.Stat(keyFile); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key file: got %v, %v, want mode 0600", info, err)
	}
	if years := time.Until(a.NotAfter()).Hours() / 24 / 365; years < 9.9 || years > 10.1 {
		t.Errorf("the CA is valid for %g years, want 10", years)
	}
	again, err := ca.Open(certFile, keyFile)
	if err != nil || again.Certificate() != a.Certificate() {
		t.Errorf("Open: %v", err)
	}
	read, err := ca.Read(keyFile)
	if err != nil || read.Certificate() != a.Certificate() {
		t.Errorf("Read: %v", err)
	}
	if another := create(t, certFile, keyFile); another.Certificate() == a.Certificate() ||
		content(t, certFile) != another.Certificate() {
		t.Error("Create did not replace the certificate of the first CA")
	}
}

// TestOpenWritesTheCertificate tests that Open writes the certificate file again, unless the file
// has the certificate of another CA.
func TestOpenWritesTheCertificate(t *testing.T) {
	certFile, keyFile := files(t)
	a := create(t, certFile, keyFile)
	for name, spoil := range map[string]func(){
		"missing": func() { _ = os.Remove(certFile) },
		"empty":   func() { write(t, certFile, "") },
		"half":    func() { write(t, certFile, a.Certificate()[:100]) },
	} {
		spoil()
		if err := a.CheckCertificateFile(certFile); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := ca.Open(certFile, keyFile); err != nil || content(t, certFile) != a.Certificate() {
			t.Errorf("%s: %v", name, err)
		}
	}
	otherCert, otherKey := files(t)
	other := create(t, otherCert, otherKey)
	write(t, certFile, other.Certificate())
	if _, err := ca.Open(certFile, keyFile); err == nil || !strings.Contains(err.Error(),
		fmt.Sprintf("%q is not the certificate of the CA", certFile)) {
		t.Errorf("Open with the certificate of another CA: got %v, want an error", err)
	}
	if content(t, certFile) != other.Certificate() {
		t.Error("Open replaced the certificate of another CA")
	}
	write(t, certFile, other.Certificate()+a.Certificate()) // a bundle of old and new
	if err := a.CheckCertificateFile(certFile); err != nil {
		t.Errorf("CheckCertificateFile of a bundle with the certificate: %v", err)
	}
}

// TestReadRefuses tests that Read refuses files that do not hold a CA, with advice.
func TestReadRefuses(t *testing.T) {
	certFile, keyFile := files(t)
	a := create(t, certFile, keyFile)
	key, _, _ := strings.Cut(content(t, keyFile), "-----BEGIN CERTIFICATE")
	otherCert, otherKey := files(t)
	other := create(t, otherCert, otherKey)
	for name, c := range map[string]struct{ text, want string }{
		"empty":                    {"", "does not start with a private key and a certificate"},
		"no certificate":           {key, "does not start with a private key and a certificate"},
		"no key":                   {a.Certificate(), "does not start with a private key and a certificate"},
		"another CA's certificate": {key + other.Certificate(), "the key does not match the certificate"},
		"two certificates, no key": {a.Certificate() + a.Certificate(), "reading the CA"},
		"an invalid key": {string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY"})) + a.Certificate(),
			"reading the CA"},
		"an invalid certificate": {key + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE"})),
			"reading the CA"},
	} {
		write(t, keyFile, c.text)
		if _, err := ca.Read(keyFile); err == nil || !strings.Contains(err.Error(), c.want) ||
			!strings.Contains(err.Error(), ca.LostAdvice) {
			t.Errorf("%s: got %v, want %q and the advice", name, err, c.want)
		}
	}
	if _, err := ca.Read(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Read of a missing file: got %v, want fs.ErrNotExist", err)
	}
}

// TestIssue tests that an issued certificate is valid for exactly the names and addresses that it
// was issued for.
func TestIssue(t *testing.T) {
	certFile, keyFile := files(t)
	a := create(t, certFile, keyFile)
	issued, err := a.Issue([]string{"localhost", "127.0.0.1", "::1", "kst-x.cryptoservice.kms.aliyuncs.com"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(issued.Certificate[0])
	if err != nil || !leaf.Equal(issued.Leaf) {
		t.Fatalf("Issue: got another Leaf than the certificate, or %v", err)
	}
	if days := time.Until(leaf.NotAfter).Hours() / 24; days < 824 || days > 826 {
		t.Errorf("the certificate is valid for %g days, want 825", days)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(a.Certificate())) {
		t.Fatal("the CA's certificate is not PEM")
	}
	for host, good := range map[string]bool{"localhost": true, "127.0.0.1": true, "::1": true, "kst-x.cryptoservice.kms.aliyuncs.com": true,
		"127.0.0.2": false, "kst-y.cryptoservice.kms.aliyuncs.com": false} {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host}); (err == nil) != good {
			t.Errorf("Verify for %s: got %v, want validity %v", host, err, good)
		}
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
		t.Error("the certificate is valid for clients")
	}
	again, err := a.Issue([]string{"localhost"}, time.Now())
	if err != nil || string(again.Certificate[0]) == string(issued.Certificate[0]) {
		t.Errorf("a second Issue: got %v or the same certificate", err)
	}
}

// TestIssueAtTheEnd tests that no certificate outlives the CA, and that a CA that has expired, or
// whose clock is wrong, issues one whose validity does not end before it begins.
func TestIssueAtTheEnd(t *testing.T) {
	certFile, keyFile := files(t)
	a := create(t, certFile, keyFile)
	for name, now := range map[string]time.Time{
		"100 days before":    a.NotAfter().AddDate(0, 0, -100),
		"a second before":    a.NotAfter().Add(-time.Second),
		"a year after":       a.NotAfter().AddDate(1, 0, 0),
		"the clock is reset": time.Unix(0, 0),
	} {
		issued, err := a.Issue([]string{"localhost"}, now)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if issued.Leaf.NotAfter.After(a.NotAfter()) {
			t.Errorf("%s: the certificate ends at %v, the CA at %v", name, issued.Leaf.NotAfter, a.NotAfter())
		}
		if !issued.Leaf.NotBefore.Before(issued.Leaf.NotAfter) {
			t.Errorf("%s: the certificate is valid from %v until %v", name, issued.Leaf.NotBefore, issued.Leaf.NotAfter)
		}
	}
}
