// Package ca is a gateway's certificate authority (CA). One file holds its key and its
// certificate, so neither exists without the other. A second file holds only the
// certificate, for clients to trust. The CA issues the server's certificates, whose private
// keys are never written to a file.
package ca

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

// LostAdvice is the advice for an operator who has lost the CA's file.
const LostAdvice = "put the file back from a backup, which `kmsgate restore` extracts; without a backup, create " +
	"another CA with `kmsgate init --new-ca` and give every client its certificate"

// An Authority is an open CA.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Create creates a CA in the file at path, and writes its certificate to certFile. It
// replaces the certificate of another CA in certFile.
func Create(certFile, path string) (*Authority, error) {
	content, err := generate()
	if err != nil {
		return nil, fmt.Errorf("creating a CA: %w", err)
	}
	if err := os.Remove(certFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := durable.Write(path, content, 0o600); err != nil {
		return nil, err
	}
	return Open(certFile, path)
}

// Open reads the CA in the file at path, and writes its certificate to certFile if that file
// lacks it. Open refuses a certFile with the certificate of another CA.
func Open(certFile, path string) (*Authority, error) {
	a, err := Read(path)
	if err != nil {
		return nil, err
	}
	if err := a.CheckCertificateFile(certFile); err != nil {
		return nil, err
	}
	return a, durable.Write(certFile, []byte(a.Certificate()), 0o644)
}

// Read reads the CA in the file at path, and changes nothing. If the file does not exist, the
// error is fs.ErrNotExist.
func Read(path string) (*Authority, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	a := new(Authority)
	if err := a.parse(content); err != nil {
		return nil, fmt.Errorf("reading the CA in %q: %w (%s)", path, err, LostAdvice)
	}
	return a, nil
}

// CheckCertificateFile returns an error if the file has the certificate of another CA,
// which clients may trust. A file that is missing or has a truncated certificate is not an
// error: [Open] writes it.
func (a *Authority) CheckCertificateFile(certFile string) error {
	content, err := os.ReadFile(certFile)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	foreign := false
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		if bytes.Equal(block.Bytes, a.cert.Raw) {
			return nil
		}
		foreign = true
	}
	if foreign {
		return fmt.Errorf("%q is not the certificate of the CA in the CA's key file, so clients that trust it would "+
			"refuse the gateway (put the right files back; if the key file is right, remove %[1]q and kmsgate writes "+
			"it again)", certFile)
	}
	return nil
}

// Certificate returns the CA's certificate, PEM-encoded.
func (a *Authority) Certificate() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

// NotAfter returns the time at which the CA's certificate expires.
func (a *Authority) NotAfter() time.Time { return a.cert.NotAfter }

// generate returns the content of the file of a new CA.
func generate() ([]byte, error) {
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

func (a *Authority) parse(content []byte) error {
	keyBlock, rest := pem.Decode(content)
	certBlock, _ := pem.Decode(rest)
	if keyBlock == nil || certBlock == nil {
		return errors.New("the file does not start with a private key and a certificate in PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		return err
	}
	var ok bool
	if a.key, ok = key.(*ecdsa.PrivateKey); !ok {
		return errors.New("the key is not an ECDSA key")
	}
	if a.cert, err = x509.ParseCertificate(certBlock.Bytes); err != nil {
		return err
	}
	if !a.key.PublicKey.Equal(a.cert.PublicKey) {
		return errors.New("the key does not match the certificate")
	}
	return nil
}

// Issue issues a server certificate with a new key for hosts, which are DNS names or IP
// addresses. The certificate is valid for 825 days from now, but no longer than the CA's. A CA
// that has expired still issues certificates, which have expired, too. Leaf is set.
func (a *Authority) Issue(hosts []string, now time.Time) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	from, until := now.Add(-clockSkew), now.Add(serverValidity)
	if until.After(a.cert.NotAfter) {
		until = a.cert.NotAfter
	}
	if !from.Before(until) { // the CA has expired, or the clock is wrong
		from = a.cert.NotBefore
	}
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: "kmsgate"},
		NotBefore:    from,
		NotAfter:     until,
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
		return tls.Certificate{}, fmt.Errorf("issuing the server's certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(cert)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("issuing the server's certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{cert}, PrivateKey: key, Leaf: leaf}, nil
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic(err) // cannot happen: crypto/rand does not return errors
	}
	return n
}
