package servercert

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"
)

// The fields of the configuration that name the operator's files.
const (
	certificateField = "tls.certificate"
	keyField         = "tls.key"
)

// A Fault is everything that is wrong with one of the operator's files.
type Fault struct {
	Field string // the field of the configuration that names the file
	What  string // with advice; it continues a sentence that starts with Field
}

// Faults is the error of [Load]: at most one Fault for each file.
type Faults []Fault

// Error returns all faults in one line.
func (f Faults) Error() string {
	all := make([]string, len(f))
	for i, fault := range f {
		all[i] = fault.Field + ": " + fault.What
	}
	return strings.Join(all, "; ")
}

// Load reads the operator's certificate chain and its private key, both in PEM. It returns
// [Faults] unless clients that trust the chain's issuer accept the certificate: the key must
// match it, now must be within its validity, and it must be for TLS servers and for a DNS name
// or an IP address. Leaf is set.
func Load(certificateFile, keyFile string, now time.Time) (*tls.Certificate, error) {
	return read(certificateFile, keyFile).parse(now)
}

// files are the operator's files.
type files struct {
	certificate, key []byte
	keyFile          string // the key's path, for advice
	faults           Faults // of reading
}

func read(certificateFile, keyFile string) files {
	f := files{keyFile: keyFile}
	f.certificate = f.readOne(certificateField, certificateFile)
	f.key = f.readOne(keyField, keyFile)
	return f
}

// readOne returns the content of a regular file. Others, such as pipes, could block forever.
func (f *files) readOne(field, path string) []byte {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		f.faults = append(f.faults, Fault{field, fmt.Sprintf("%q is not a regular file (correct the path)", path)})
		return nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		advice := "correct the path, or put the file there"
		if errors.Is(err, fs.ErrPermission) {
			advice = "run as root or as the gateway's user, who must be able to read it"
		}
		f.faults = append(f.faults, Fault{field, fmt.Sprintf("%v (%s)", err, advice)})
		return nil
	}
	return content
}

// A digest identifies the content of the operator's files without keeping the key.
type digest [sha256.Size]byte

func (f files) digest() digest {
	certificate, key := sha256.Sum256(f.certificate), sha256.Sum256(f.key)
	faults := sha256.Sum256([]byte(f.faults.Error()))
	return sha256.Sum256(slices.Concat(certificate[:], key[:], faults[:]))
}

// parse returns the certificate that the files hold.
func (f files) parse(now time.Time) (*tls.Certificate, error) {
	if len(f.faults) > 0 {
		return nil, f.faults
	}
	var faults Faults
	leaf, err := parseLeaf(f.certificate)
	if err != nil {
		faults = append(faults, Fault{certificateField, fmt.Sprintf("%v (it must be the certificate chain in PEM, the "+
			"server's certificate first)", err)})
	} else if found := faultsOf(leaf, now); found != nil {
		faults = append(faults, Fault{certificateField, strings.Join(found, "; ")})
	}
	var pair tls.Certificate
	if isEncrypted(f.key) {
		faults = append(faults, Fault{keyField, fmt.Sprintf("the private key is encrypted, and the gateway has no "+
			"passphrase for it (decrypt it into a file that only the gateway's user can read: umask 077; openssl pkey "+
			"-in %s -out FILE)", f.keyFile)})
	} else if leaf != nil {
		if pair, err = tls.X509KeyPair(f.certificate, f.key); err != nil {
			faults = append(faults, Fault{keyField, fmt.Sprintf("does not match tls.certificate: they must be a private "+
				"key and its certificate chain in PEM, the server's certificate first: %v", err)})
		}
	}
	if faults != nil {
		return nil, faults
	}
	pair.Leaf = leaf
	return &pair, nil
}

// parseLeaf returns the first certificate.
func parseLeaf(chain []byte) (*x509.Certificate, error) {
	for block, rest := pem.Decode(chain); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("the certificate cannot be read: %w", err)
		}
		return leaf, nil
	}
	return nil, errors.New("the file has no certificate")
}

// isEncrypted reports whether the first private key is encrypted: in PKCS #8, or in the older
// format of RFC 1421.
func isEncrypted(key []byte) bool {
	for block, rest := pem.Decode(key); block != nil; block, rest = pem.Decode(rest) {
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			return block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED")
		}
	}
	return false
}

// faultsOf returns everything in a certificate that makes clients refuse its server.
func faultsOf(leaf *x509.Certificate, now time.Time) (all []string) {
	switch {
	case now.After(leaf.NotAfter):
		all = append(all, fmt.Sprintf("the certificate expired at %s (renew it)", inUTC(leaf.NotAfter)))
	case now.Before(leaf.NotBefore):
		all = append(all, fmt.Sprintf("the certificate is not valid before %s (wait, or correct this machine's clock)",
			inUTC(leaf.NotBefore)))
	}
	if len(leaf.DNSNames)+len(leaf.IPAddresses) == 0 {
		all = append(all, "the certificate has no subject alternative name (SAN), and clients ignore its common name "+
			"(CN) (have it issued for the DNS names and IP addresses that clients connect to)")
	}
	// A certificate without the extension is for every usage.
	restricted := len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) > 0
	if restricted && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) &&
		!slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny) {
		other := ""
		if slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
			other = ", only clientAuth"
		}
		all = append(all, fmt.Sprintf("the certificate is not for servers: its extended key usage has no serverAuth%s "+
			"(have it issued for a TLS server)", other))
	}
	return all
}
