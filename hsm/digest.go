package hsm

import (
	"crypto/ecdsa"
	"crypto/sha256"

	"github.com/emmansun/gmsm/sm2"
)

// sm2UserID is the signer's default distinguishing identifier (GM/T 0009-2012, section 10).
// The KMS samples use it too.
const sm2UserID = "1234567812345678"

// Digest returns the digest of a message that is signed with k under alg: its SHA-256
// for RSA and ECDSA, and SM3(Z_A || message) for SM2DSA, where Z_A is a hash of the
// default user id, the curve and k.Public (GB/T 32918.2-2016, sections 5.5 and 6.1).
// It does not use the token.
//
// The error is ErrAlgorithm if alg does not fit k.Spec. Any other error means that
// k.Public is not a public key of k.Spec.
func Digest(k Key, alg Algorithm, message []byte) ([]byte, error) {
	s, err := fitting(k.Spec, alg)
	if err != nil {
		return nil, err
	}
	pub, err := s.public(k)
	if err != nil {
		return nil, err
	}
	return s.hash(pub, message)
}

// hashSHA256 ignores the public key.
func hashSHA256(_ publicKey, message []byte) ([]byte, error) {
	sum := sha256.Sum256(message)
	return sum[:], nil
}

func hashSM2(pub publicKey, message []byte) ([]byte, error) {
	return sm2.CalculateSM2Hash(pub.(*ecdsa.PublicKey), message, []byte(sm2UserID))
}
