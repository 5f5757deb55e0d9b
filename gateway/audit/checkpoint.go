package audit

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// A Checkpoint is a head that a key in the token has signed: whoever has the
// public key knows that the line was written by the gateway, and so every line
// before it.
type Checkpoint struct {
	Head
	Time      time.Time
	Signature []byte // ECDSA on P-256 over Digest, ASN.1 DER
}

// Digest is what is signed: the SHA-256 of the four lines "kmsgate audit
// checkpoint 1", Seq in decimal, Hash, and Time in RFC 3339 with nanoseconds in
// UTC, each ended by a newline.
func (c Checkpoint) Digest() []byte {
	sum := sha256.Sum256(fmt.Appendf(nil, "kmsgate audit checkpoint 1\n%d\n%s\n%s\n", c.Seq, c.Hash, c.Time.UTC().Format(time.RFC3339Nano)))
	return sum[:]
}

// Check reports whether the signature is the key's.
func (c Checkpoint) Check(key *ecdsa.PublicKey) bool {
	return ecdsa.VerifyASN1(key, c.Digest(), c.Signature)
}

// String is a checkpoint as one word, for an auditor to keep.
func (c Checkpoint) String() string {
	text, err := json.Marshal(c)
	if err != nil {
		return "(a time that cannot be written: " + err.Error() + ")"
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// ParseCheckpoint reads what String has written. It does not check the
// signature.
func ParseCheckpoint(text string) (c Checkpoint, err error) {
	decoded, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(decoded, &c)
	}
	if err != nil || len(c.Hash) != 2*sha256.Size {
		return Checkpoint{}, errors.New("it is not what `kmsgate audit head` prints")
	}
	return c, nil
}

// ParsePublicKey reads the key that checks checkpoints: a SubjectPublicKeyInfo
// of P-256 in PEM.
func ParsePublicKey(text []byte) (*ecdsa.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, errors.New("it is not a public key in PEM")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the public key: %w", err)
	}
	if ec, ok := key.(*ecdsa.PublicKey); ok && ec.Curve == elliptic.P256() {
		return ec, nil
	}
	return nil, errors.New("the public key is not one of P-256")
}
