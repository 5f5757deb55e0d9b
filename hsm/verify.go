package hsm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"fmt"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	secp256k1ecdsa "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
	"github.com/emmansun/gmsm/sm2"
)

// Verify reports whether sig is k's signature of digest under alg. It works in software and
// uses k.Public and k.Spec only. This keeps the token's sessions free for work that only the
// token can do, and verification continues while the token is down.
//
// Verify returns false, not an error, for a malformed signature. An error means that Verify
// could not decide: [Check] rejects the arguments, or k.Public is not a public key of k.Spec.
func Verify(k Key, alg Algorithm, digest, sig []byte) (bool, error) {
	s, err := lookup(k.Spec, alg, digest)
	if err != nil {
		return false, err
	}
	pub, err := s.public(k)
	if err != nil {
		return false, err
	}
	return s.verify(pub, digest, sig), nil
}

// A publicKey is a *rsa.PublicKey, *ecdsa.PublicKey (P-256 and SM2) or *secp256k1.PublicKey.
// A scheme's parse returns it for the scheme's hash and verify.
type publicKey any

func parseRSA(bits int) func([]byte) (publicKey, error) {
	return func(spki []byte) (publicKey, error) {
		parsed, err := x509.ParsePKIXPublicKey(spki)
		if err != nil {
			return nil, err
		}
		pub, ok := parsed.(*rsa.PublicKey)
		if !ok || pub.N.BitLen() != bits {
			return nil, fmt.Errorf("not an RSA key of %d bits", bits)
		}
		return pub, nil
	}
}

func verifyPSS(pub publicKey, digest, sig []byte) bool {
	// Verification requires a salt of 32 bytes and does not detect its length: KMS signs with
	// 32 bytes and its samples verify with 32 bytes, so another length is another scheme.
	opts := &rsa.PSSOptions{SaltLength: DigestSize, Hash: crypto.SHA256}
	return rsa.VerifyPSS(pub.(*rsa.PublicKey), crypto.SHA256, digest, sig, opts) == nil
}

func verifyPKCS1(pub publicKey, digest, sig []byte) bool {
	return rsa.VerifyPKCS1v15(pub.(*rsa.PublicKey), crypto.SHA256, digest, sig) == nil
}

func parseP256(spki []byte) (publicKey, error) {
	parsed, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, err
	}
	pub, ok := parsed.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, fmt.Errorf("not a key on P-256")
	}
	return pub, nil
}

func verifyP256(pub publicKey, digest, sig []byte) bool {
	return ecdsa.VerifyASN1(pub.(*ecdsa.PublicKey), digest, sig)
}

func parseP256K(spki []byte) (publicKey, error) {
	point, err := ParseECPublicKey(EC_P256K, spki)
	if err != nil {
		return nil, err
	}
	return secp256k1.ParsePubKey(point)
}

func verifyP256K(pub publicKey, digest, sig []byte) bool {
	rBytes, sBytes, ok := parseSignature(sig)
	if !ok {
		return false
	}
	var r, s secp256k1.ModNScalar
	if r.SetByteSlice(rBytes) || s.SetByteSlice(sBytes) {
		return false // not below the group order
	}
	// Both s and its negative are accepted, because tokens do not normalise s (measured: half
	// of SoftHSM's signatures have the high s).
	return secp256k1ecdsa.NewSignature(&r, &s).Verify(digest, pub.(*secp256k1.PublicKey))
}

func parseSM2(spki []byte) (publicKey, error) {
	point, err := ParseECPublicKey(EC_SM2, spki)
	if err != nil {
		return nil, err
	}
	return sm2.NewPublicKey(point)
}

func verifySM2(pub publicKey, digest, sig []byte) bool {
	return sm2.VerifyASN1(pub.(*ecdsa.PublicKey), digest, sig)
}
