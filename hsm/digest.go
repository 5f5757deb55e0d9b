package hsm

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"hash"

	"github.com/emmansun/gmsm/sm2"
	"github.com/emmansun/gmsm/sm3"
)

// DefaultSM2ID is the signer's default distinguishing identifier (GM/T 0009-2012, section 10).
// The KMS samples use it too.
const DefaultSM2ID = "1234567812345678"

// Digest returns the digest of a message that is signed with k under alg: its SHA-256
// for RSA and ECDSA, and SM3(Z_A || message) for SM2DSA, where Z_A is a hash of
// DefaultSM2ID, the curve and k.Public (GB/T 32918.2-2016, sections 5.5 and 6.1).
// It does not use the token.
//
// The error is ErrAlgorithm if alg does not fit k.Spec. Any other error means that
// k.Public is not a public key of k.Spec.
func Digest(k Key, alg Algorithm, message []byte) ([]byte, error) {
	h, err := NewDigest(k, alg, DefaultSM2ID)
	if err != nil {
		return nil, err
	}
	h.Write(message)
	return h.Sum(nil), nil
}

// NewDigest returns a hash that computes [Digest] of the message written to it, with sm2ID instead
// of DefaultSM2ID. Only SM2DSA uses sm2ID: at most 8,191 bytes. After Reset, the hash cannot
// be used for SM2DSA. Errors are those of Digest, and one if sm2ID is too long.
func NewDigest(k Key, alg Algorithm, sm2ID string) (hash.Hash, error) {
	s, err := fitting(k.Spec, alg)
	if err != nil {
		return nil, err
	}
	pub, err := s.public(k)
	if err != nil {
		return nil, err
	}
	return s.newHash(pub, sm2ID)
}

// newSHA256 ignores the public key.
func newSHA256(publicKey, string) (hash.Hash, error) { return sha256.New(), nil }

func newSM3(pub publicKey, id string) (hash.Hash, error) {
	za, err := sm2.CalculateZA(pub.(*ecdsa.PublicKey), []byte(id))
	if err != nil {
		return nil, err
	}
	h := sm3.New()
	h.Write(za)
	return h, nil
}
