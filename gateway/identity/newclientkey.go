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

// clientKeyEncoder writes PKCS#12 that KMS's instance SDKs can read: they support only SHA-1
// and 3DES, and require one certificate followed by one key. Such a file is only as safe as
// its password. Each guess costs an attacker 10,000 iterations instead of go-pkcs12's one;
// clients in JavaScript need less than a second for them.
var clientKeyEncoder = pkcs12.LegacyDES.WithIterations(10_000)

// MakeClientKey generates a key pair and sets k.Certificate to a certificate for the public
// key. It returns a PKCS#12 file with the private key, encrypted under the password. The
// private key exists nowhere else.
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
		// x509 chooses a random SerialNumber if there is none.
	}
	k.Certificate, err = x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(k.Certificate)
	if err != nil {
		return nil, err
	}
	return clientKeyEncoder.Encode(private, certificate, nil, password)
}

// CheckPassword returns a *kms.Error, which does not contain the password, if a client key's
// password violates KMS's rules.
func CheckPassword(password string) error {
	kinds := 0
	for _, kind := range []string{
		"0123456789", "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", "~!@#$%^&*?_-",
	} {
		if strings.ContainsAny(password, kind) {
			kinds++
		}
	}
	if !passwordCharacters.MatchString(password) || kinds < 2 {
		return kms.InvalidParameter("Password", "it must have 8 to 64 digits, letters and special characters "+
			"(~!@#$%%^&*?_-), of at least two of these kinds")
	}
	return nil
}

var passwordCharacters = regexp.MustCompile(`^[0-9A-Za-z~!@#$%^&*?_-]{8,64}$`)
