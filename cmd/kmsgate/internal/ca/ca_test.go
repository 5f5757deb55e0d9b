package ca_test

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/ca"
)

// files returns the paths of a CA's two files, in a directory of their own.
func files(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	dir := t.TempDir()
	return filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca-key.pem")
}

func made(t *testing.T, certFile, keyFile string) *ca.Authority {
	t.Helper()
	a, err := ca.Make(certFile, keyFile)
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

// TestMake: what Make returns is what Open and Read find in the files, and the key is its
// owner's only.
func TestMake(t *testing.T) {
	certFile, keyFile := files(t)
	a := made(t, certFile, keyFile)
	if content(t, certFile) != a.Certificate() || strings.Contains(a.Certificate(), "KEY") {
		t.Errorf("the certificate's file has %s", content(t, certFile))
	}
	if info, err := os.Stat(keyFile); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v, %v", info, err)
	}
	if years := time.Until(a.NotAfter()).Hours() / 24 / 365; years < 9.9 || years > 10.1 {
		t.Errorf("it is valid for %g years", years)
	}
	again, err := ca.Open(certFile, keyFile)
	if err != nil || again.Certificate() != a.Certificate() {
		t.Errorf("Open: %v", err)
	}
	read, err := ca.Read(keyFile)
	if err != nil || read.Certificate() != a.Certificate() {
		t.Errorf("Read: %v", err)
	}
	if another := made(t, certFile, keyFile); another.Certificate() == a.Certificate() || content(t, certFile) != another.Certificate() {
		t.Error("a second CA does not replace the first one's certificate")
	}
}

// TestOpenWritesTheCertificate: whatever happened to the certificate's file, unless it has
// another CA's certificate, Open puts it right.
func TestOpenWritesTheCertificate(t *testing.T) {
	certFile, keyFile := files(t)
	a := made(t, certFile, keyFile)
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
	other := made(t, otherCert, otherKey)
	write(t, certFile, other.Certificate())
	if _, err := ca.Open(certFile, keyFile); err == nil || !strings.Contains(err.Error(), certFile+" is not the certificate of the CA") {
		t.Errorf("with another CA's certificate: %v", err)
	}
	if content(t, certFile) != other.Certificate() {
		t.Error("another CA's certificate was overwritten")
	}
	write(t, certFile, other.Certificate()+a.Certificate()) // a bundle of old and new
	if err := a.CheckCertificateFile(certFile); err != nil {
		t.Errorf("a bundle with the certificate: %v", err)
	}
}

// TestReadRefuses: a file that is not a CA's is refused, with what helps.
func TestReadRefuses(t *testing.T) {
	certFile, keyFile := files(t)
	a := made(t, certFile, keyFile)
	key, _, _ := strings.Cut(content(t, keyFile), "-----BEGIN CERTIFICATE")
	otherCert, otherKey := files(t)
	other := made(t, otherCert, otherKey)
	for name, c := range map[string]struct{ text, want string }{
		"empty":                     {"", "not a private key and a certificate"},
		"no certificate":            {key, "not a private key and a certificate"},
		"no key":                    {a.Certificate(), "not a private key and a certificate"},
		"another's certificate":     {key + other.Certificate(), "its key is not that of its certificate"},
		"two certificates, no key":  {a.Certificate() + a.Certificate(), "reading the CA"},
		"a key that is none":        {string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY"})) + a.Certificate(), "reading the CA"},
		"a certificate that is not": {key + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE"})), "reading the CA"},
	} {
		write(t, keyFile, c.text)
		if _, err := ca.Read(keyFile); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), ca.LostAdvice) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ca.Read(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

// TestIssue: clients that trust the CA accept the certificate for each name and address
// that it was asked for, and for no other.
func TestIssue(t *testing.T) {
	certFile, keyFile := files(t)
	a := made(t, certFile, keyFile)
	issued, err := a.Issue([]string{"localhost", "127.0.0.1", "::1", "kst-x.cryptoservice.kms.aliyuncs.com"})
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(issued.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(a.Certificate())) {
		t.Fatal("the CA's certificate is not PEM")
	}
	for host, good := range map[string]bool{"localhost": true, "127.0.0.1": true, "::1": true, "kst-x.cryptoservice.kms.aliyuncs.com": true,
		"127.0.0.2": false, "kst-y.cryptoservice.kms.aliyuncs.com": false} {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host}); (err == nil) != good {
			t.Errorf("for %s: %v", host, err)
		}
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
		t.Error("the certificate is good for clients, too")
	}
	again, err := a.Issue([]string{"localhost"})
	if err != nil || string(again.Certificate[0]) == string(issued.Certificate[0]) {
		t.Errorf("a second certificate: %v", err)
	}
}
