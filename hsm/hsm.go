// Package hsm defines the key backend: it makes key pairs, signs digests with them and never
// discloses a private key.
//
// What it guarantees:
//
//   - KMS's terms have one interpretation. One table (scheme.go) defines which [Algorithm]
//     fits which [KeySpec] and what a digest must look like.
//   - Every signature goes through a [Route]. It rejects what the table does not allow before
//     a backend sees it, and returns only signatures that verify with the recorded public key.
//
// This package makes both checks because the libraries below it do not. SoftHSM signs ECDSA
// "digests" of 0 to 100 bytes, and gmsm signs SM2 digests of any length (measured). A faulty
// token returns a wrong signature without an error, and one faulty CRT signature is enough to
// compute an RSA private key.
//
// The package is pure Go. The backends are hsm/token (PKCS#11), hsm/sealed (SM2 in software, sealed
// by the token) and, for tests, hsm/software. Package hsm/hsmtest holds the contract that every backend
// and Route is tested against.
package hsm

import (
	"context"
	"errors"
	"fmt"
)

// A KeySpec is the kind of a key pair, spelled as the KMS API spells it.
type KeySpec string

// The KeySpecs that can sign.
const (
	RSA_2048 KeySpec = "RSA_2048"
	RSA_3072 KeySpec = "RSA_3072"
	RSA_4096 KeySpec = "RSA_4096"
	EC_P256  KeySpec = "EC_P256"  // NIST P-256, secp256r1
	EC_P256K KeySpec = "EC_P256K" // secp256k1
	EC_SM2   KeySpec = "EC_SM2"   // sm2p256v1, GB/T 32918.5
)

// An Algorithm is a signature algorithm, spelled as the KMS API spells it.
// Every Algorithm signs a digest of [DigestSize] bytes.
type Algorithm string

// The signature algorithms. An RSA signature is as long as the modulus, big-endian. The other
// signatures are the ASN.1 DER of SEQUENCE{r, s}.
const (
	RSA_PSS_SHA_256   Algorithm = "RSA_PSS_SHA_256"   // RSASSA-PSS, SHA-256, MGF1 with SHA-256, salt of 32 bytes
	RSA_PKCS1_SHA_256 Algorithm = "RSA_PKCS1_SHA_256" // RSASSA-PKCS1-v1_5, SHA-256
	ECDSA_SHA_256     Algorithm = "ECDSA_SHA_256"     // ECDSA over a SHA-256 digest
	SM2DSA            Algorithm = "SM2DSA"            // GB/T 32918.2; the digest is e = SM3(Z_A || M)
)

// A Key is what a backend needs to find a key pair. It holds no secret in the clear and may be
// stored anywhere.
type Key struct {
	ID     []byte // the KeyVersionId's 16 bytes; CKA_ID in a token
	Spec   KeySpec
	Public []byte // SubjectPublicKeyInfo, DER
	Sealed []byte // the private key, sealed by the token; nil if the private key is in the token
}

// A Backend makes and uses key pairs. Its methods are safe for concurrent use. They return when
// the work or ctx is done. Work that has reached a token cannot be cancelled and may finish
// after the method has returned.
//
// The rest of the program uses a Route. The signatures of all other Backends are unverified.
// Every implementation is tested by hsmtest.TestBackend.
type Backend interface {
	// Generate makes a key pair of the given spec. Its id must have 16 bytes and be unique.
	// If Generate succeeds, the key has made one verified signature, and its private half is
	// on stable storage or, sealed, in the Key. If Generate fails, it leaves no usable key
	// behind, unless the backend was lost at that moment. Destroy with the same ID removes
	// any leftovers. The error is ErrKeySpec if the backend cannot make keys of spec.
	Generate(ctx context.Context, spec KeySpec, id []byte) (Key, error)

	// Sign signs digest with k's private key. The error is ErrNotFound if the backend does
	// not have the key. A Route rejects arguments with the error of [Check], and withholds a
	// signature that does not verify with k.Public. Other backends rely on the Route for both.
	Sign(ctx context.Context, k Key, alg Algorithm, digest []byte) ([]byte, error)

	// Destroy removes k's private key permanently. It succeeds if the key is already gone.
	// It uses k.ID, k.Spec and k.Sealed only.
	Destroy(ctx context.Context, k Key) error

	// Has returns nil, ErrNotFound or ErrUnavailable, depending on whether the backend has
	// k's private key. It answers from memory and does not ask the token.
	Has(k Key) error

	// Forget drops any copy of k's private key that the backend keeps to sign faster. It is
	// for a key that is no longer used. The next signature with the key takes longer.
	Forget(k Key)

	// Quarantine is called when a signature of k did not verify. It discards the handle or
	// copy that the backend signs with, so that the next signature looks up k's private key
	// again. It returns nil if the backend works and the caller may ask for another signature;
	// otherwise it returns what is wrong.
	Quarantine(ctx context.Context, k Key) error

	// Health returns nil if the backend could sign a moment ago.
	Health(ctx context.Context) error
}

// A Sealer encrypts small secrets, up to 64 KiB, under a key that it never discloses.
// Unseal returns the plaintext if given the same aad as Seal; any other input is an error.
type Sealer interface {
	Seal(ctx context.Context, plaintext, aad []byte) ([]byte, error)
	Unseal(ctx context.Context, sealed, aad []byte) ([]byte, error)
}

// The errors of backends. Compare with errors.Is.
var (
	// ErrNotFound: the backend has no private key for this Key.
	ErrNotFound = errors.New("no such private key")
	// ErrBusy: too much work is waiting; the same call may succeed later.
	ErrBusy = errors.New("too many operations are waiting for the token")
	// ErrUnavailable: the token is absent or did not answer in time.
	ErrUnavailable = errors.New("the token is unavailable")
	// ErrRefused: the token works but rejected this operation twice; retrying may not
	// help. It wraps ErrUnavailable.
	ErrRefused = fmt.Errorf("%w: it works but rejected this operation", ErrUnavailable)
	// ErrPIN: the token refused the PIN, or the gateway made no attempt because that could lock
	// the token. It lasts until an operator sets the right PIN or unlocks the token.
	ErrPIN = errors.New("the token's PIN was not accepted")
	// ErrNotOurs: the token lacks the objects that provisioning makes, or no token has the label
	// or serial number.
	ErrNotOurs = errors.New("the token was not provisioned for kmsgate, or is not the same token as before")
	// ErrNoRandom: the token has no usable random number generator.
	ErrNoRandom = errors.New("the token has no usable random number generator")
	// ErrReserved: the key signs the audit log, so it is not destroyed.
	ErrReserved = errors.New("the key is reserved for the audit log")
	// ErrNoCounter: the token cannot store a number.
	ErrNoCounter = errors.New("the token does not store data objects")
	// ErrKeySpec: the KeySpec is unknown, or this backend cannot make such keys.
	ErrKeySpec = errors.New("KeySpec not supported")
	// ErrAlgorithm: the Algorithm is unknown or does not fit the KeySpec.
	ErrAlgorithm = errors.New("Algorithm does not fit the KeySpec")
	// ErrDigest: the digest does not have the Algorithm's length.
	ErrDigest = errors.New("digest has the wrong length")
)
