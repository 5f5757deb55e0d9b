package audit

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// A Checkpoint is a head signed by a key in the token. Anyone with the public key can verify that
// the gateway wrote the line, and every line before it.
type Checkpoint struct {
	Head
	Time      time.Time
	Signature []byte // of Digest; see PublicKey
}

// A PublicKey checks signatures of the gateway's audit key. It is an *ecdsa.PublicKey on P-256, and
// signatures are ECDSA in ASN.1 DER. From a token without curves it is an *rsa.PublicKey of at
// least 2048 bits, and signatures are RSASSA-PKCS1-v1_5. Digests are SHA-256.
type PublicKey interface {
	Equal(other crypto.PublicKey) bool
}

// Signed reports whether signature is the key's signature of digest.
func Signed(key PublicKey, digest, signature []byte) bool {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(key, digest, signature)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(key, crypto.SHA256, digest, signature) == nil
	}
	return false
}

// Digest returns the digest that is signed. It is the SHA-256 of four lines, each ended by a
// newline: "kmsgate audit checkpoint 1", Seq in decimal, Hash, and Time in RFC 3339 with
// nanoseconds in UTC.
func (c Checkpoint) Digest() []byte {
	sum := sha256.Sum256(fmt.Appendf(nil, "kmsgate audit checkpoint 1\n%d\n%s\n%s\n",
		c.Seq, c.Hash, c.Time.UTC().Format(time.RFC3339Nano)))
	return sum[:]
}

// Check reports whether the checkpoint has a valid signature of the key.
func (c Checkpoint) Check(key PublicKey) bool { return Signed(key, c.Digest(), c.Signature) }

// String returns the checkpoint as one word, for an auditor to store.
func (c Checkpoint) String() string {
	text, err := json.Marshal(c)
	if err != nil {
		return "(invalid time: " + err.Error() + ")"
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// ParseCheckpoint parses the result of [Checkpoint.String]. It does not check the signature.
func ParseCheckpoint(text string) (c Checkpoint, err error) {
	decoded, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(decoded, &c)
	}
	if err != nil || len(c.Hash) != 2*sha256.Size {
		return Checkpoint{}, errors.New("not a signed head of an audit log")
	}
	return c, nil
}

// ParsePublicKey parses the key that checks checkpoints, a SubjectPublicKeyInfo in PEM.
func ParsePublicKey(text []byte) (PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, errors.New("not a public key in PEM")
	}
	return DecodePublicKey(block.Bytes)
}

// DecodePublicKey parses a SubjectPublicKeyInfo in DER.
func DecodePublicKey(der []byte) (PublicKey, error) {
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("parsing the public key: %w", err)
	}
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() {
			return key, nil
		}
	case *rsa.PublicKey:
		if key.N.BitLen() >= 2048 {
			return key, nil
		}
	}
	return nil, errors.New("the public key is neither on P-256 nor RSA of at least 2048 bits")
}
