package integration

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/internal/servercert/servercerttest"
)

// selfSigned returns a certificate for 127.0.0.1 that is its own CA, and the same in PEM.
func selfSigned(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func pool(t *testing.T, pemText string) *x509.CertPool {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(pemText)) {
		t.Fatalf("no certificate in %q", pemText)
	}
	return roots
}

// TestCertificateReplaced replaces the operator's certificate and then its key while a gateway
// serves and clients connect. The gateway must present the new certificate without a restart or a
// signal, and no handshake may fail.
func TestCertificateReplaced(t *testing.T) {
	t.Parallel()
	g := start(t, t.TempDir()+"/gateway")
	if err := g.Stop(); err != nil {
		t.Fatal(err)
	}
	certFile, keyFile := filepath.Join(g.Dir, "own.pem"), filepath.Join(g.Dir, "own-key.pem")
	issuer := servercerttest.NewIssuer(t)
	replace := func() (certificate []byte) {
		certificate, key := issuer.Issue(t, nil)
		servercerttest.Replace(t, certFile, certificate)
		servercerttest.Replace(t, keyFile, key)
		return certificate
	}
	replace()
	path := filepath.Join(g.Dir, "kmsgate.yaml")
	text, err := os.ReadFile(path)
	section := regexp.MustCompile(`(?m)^tls:\n(?: .*\n)+`)
	if err != nil || !section.Match(text) {
		t.Fatalf("the configuration has no section tls, %v", err)
	}
	text = section.ReplaceAll(text, []byte("tls: {certificate: own.pem, key: own-key.pem}\n"))
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	address := serve(t, path)

	config := &tls.Config{RootCAs: issuer.Pool(), ServerName: "localhost"}
	var stop atomic.Bool
	var presented atomic.Pointer[x509.Certificate] // in the last handshake
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for !stop.Load() {
				conn, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Minute}, "tcp", address, config)
				if err != nil {
					t.Errorf("a handshake failed: %v", err)
					return
				}
				presented.Store(conn.ConnectionState().PeerCertificates[0])
				_ = conn.Close()                    // the gateway may have closed it
				<-time.After(10 * time.Millisecond) // limits the number of ports
			}
		})
	}
	defer clients.Wait()
	defer stop.Store(true)
	for range 2 {
		block, _ := pem.Decode(replace())
		waitFor(t, "the gateway to present the new certificate", func() bool {
			leaf := presented.Load()
			return leaf != nil && bytes.Equal(leaf.Raw, block.Bytes)
		})
	}
}
