package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"time"

	"github.com/kmsgate/kmsgate/internal/durable"
)

const (
	caValidity     = 10 * 365 * 24 * time.Hour
	serverValidity = 825 * 24 * time.Hour // the longest that all TLS clients accept
	clockSkew      = time.Hour
)

// An authority is a CA of the gateway's own.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// makeAuthority makes a CA. The key and the certificate are one file, at path, so that
// there is never one without the other; certFile holds the certificate alone, for
// clients.
func makeAuthority(certFile, path string) (*authority, error) {
	content, err := newAuthority()
	if err != nil {
		return nil, fmt.Errorf("making a CA: %w", err)
	}
	if err := os.Remove(certFile); err != nil && !errors.Is(err, fs.ErrNotExist) { // another's
		return nil, err
	}
	if err := durable.Write(path, content, 0o600); err != nil {
		return nil, err
	}
	return openAuthority(certFile, path)
}

// openAuthority reads the CA in the file at path, and sees to it that certFile has its
// certificate.
func openAuthority(certFile, path string) (*authority, error) {
	a, err := readAuthority(path)
	if err != nil {
		return nil, err
	}
	if err := a.isIn(certFile); err != nil {
		return nil, err
	}
	return a, durable.Write(certFile, []byte(a.certificate()), 0o644)
}

func readAuthority(path string) (*authority, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	a := new(authority)
	if err := a.parse(content); err != nil {
		return nil, fmt.Errorf("reading the CA in %s: %w. %s", path, err, lostCA)
	}
	return a, nil
}

// isIn reports an error if the file has the certificate of another CA, which clients
// may trust. None, or half of one, is as good as no file.
func (a *authority) isIn(certFile string) error {
	content, err := os.ReadFile(certFile)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	another := false
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		if bytes.Equal(block.Bytes, a.cert.Raw) {
			return nil
		}
		another = true
	}
	if another {
		return fmt.Errorf("%s is not the certificate of the CA in the CA's key file: clients that trust the one do not trust the other. Put the right files back; if the key file is right, remove %[1]s, and it is written anew", certFile)
	}
	return nil
}

// certificate is the CA's certificate, PEM.
func (a *authority) certificate() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

func newAuthority() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "kmsgate CA " + now.UTC().Format("2006-01-02 15:04:05")},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(caValidity),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})...), nil
}

func (a *authority) parse(content []byte) error {
	keyBlock, rest := pem.Decode(content)
	certBlock, _ := pem.Decode(rest)
	if keyBlock == nil || certBlock == nil {
		return errors.New("it is not a private key and a certificate in PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		return err
	}
	var ok bool
	if a.key, ok = key.(*ecdsa.PrivateKey); !ok {
		return errors.New("its key is not an ECDSA key")
	}
	if a.cert, err = x509.ParseCertificate(certBlock.Bytes); err != nil {
		return err
	}
	if !a.key.PublicKey.Equal(a.cert.PublicKey) {
		return errors.New("its key is not that of its certificate")
	}
	return nil
}

// serverConfig issues a certificate for the names and addresses. It is made
// anew at every start and its key is never written down.
func (a *authority) serverConfig(hosts []string) (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: "kmsgate"},
		NotBefore:    now.Add(-clockSkew),
		NotAfter:     now.Add(serverValidity),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("issuing the server's certificate: %w", err)
	}
	return serverTLS(tls.Certificate{Certificate: [][]byte{cert}, PrivateKey: key}), nil
}

// serverTLS is how listeners speak TLS.
func serverTLS(certificate tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS12, // what the real service's instances speak
		NextProtos:   []string{"http/1.1"},
		Certificates: []tls.Certificate{certificate},
	}
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	return n
}
