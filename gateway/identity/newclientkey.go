package identity

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"regexp"
	"strings"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/store"
)

const clientKeyBits = 2048

// clientKeyFile writes PKCS#12 as KMS's instance SDKs can read it: they know SHA-1
// and 3DES only, and want one certificate before one key. Such a file is no better
// kept than its password; what can be done for that is to make each guess dearer
// than go-pkcs12's one iteration. Ten thousand cost clients in JavaScript less than
// a second.
var clientKeyFile = pkcs12.LegacyDES.WithIterations(10_000)

// MakeClientKey makes a key pair and, for the public half, the certificate that
// goes into the record. The private half is in the file that it gives, under the
// password, and nowhere else.
func MakeClientKey(k *store.ClientKey, password string) (pfx []byte, err error) {
	private, err := rsa.GenerateKey(rand.Reader, clientKeyBits)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: k.ClientKeyId},
		NotBefore:   k.NotBefore,
		NotAfter:    k.NotAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		// Without a SerialNumber it gets a random one.
	}
	k.Certificate, err = x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(k.Certificate)
	if err != nil {
		return nil, err
	}
	return clientKeyFile.Encode(private, certificate, nil, password)
}

// CheckPassword holds a client key's password to KMS's rules. It is not echoed.
func CheckPassword(password string) error {
	kinds := 0
	for _, kind := range []string{"0123456789", "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", "~!@#$%^&*?_-"} {
		if strings.ContainsAny(password, kind) {
			kinds++
		}
	}
	if !passwordCharacters.MatchString(password) || kinds < 2 {
		return kms.InvalidParameter("Password", "it has to be 8 to 64 digits, letters and special characters (~!@#$%%^&*?_-), of at least two of these kinds")
	}
	return nil
}

var passwordCharacters = regexp.MustCompile(`^[0-9A-Za-z~!@#$%^&*?_-]{8,64}$`)
