// Package hsm says what a key backend is: something that makes key pairs, signs digests
// with them and never gives a private key out.
//
// What it guarantees:
//
//   - One interpretation of KMS's terms. One table (scheme.go) says which [Algorithm]
//     fits which [KeySpec] and what a digest must look like.
//   - Every signature goes through a [Route]. It sends nothing to a backend that the
//     table refuses, and returns no signature that does not verify with the recorded
//     public key.
//
// Both checks are made here because nobody else makes them. SoftHSM signs ECDSA
// "digests" of 0 to 100 bytes, and gmsm signs SM2 digests of any length (measured). A
// token that makes a mistake still returns the wrong signature, and one faulty
// CRT signature is enough to compute an RSA private key.
//
// The package is pure Go. The backends are hsm/token (PKCS#11) and hsm/sealed (SM2 in
// software, sealed by the token). Package hsm/hsmtest holds the contract that each of
// them, and a Route, is tested against.
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
// Each of them signs a digest of [DigestSize] bytes.
type Algorithm string

// The signature algorithms. Signatures of the RSA algorithms are as long as
// the modulus, big-endian; the others are the ASN.1 DER of SEQUENCE{r, s}.
const (
	RSA_PSS_SHA_256   Algorithm = "RSA_PSS_SHA_256"   // RSASSA-PSS, SHA-256, MGF1 with SHA-256, salt of 32 bytes
	RSA_PKCS1_SHA_256 Algorithm = "RSA_PKCS1_SHA_256" // RSASSA-PKCS1-v1_5, SHA-256
	ECDSA_SHA_256     Algorithm = "ECDSA_SHA_256"     // ECDSA over a SHA-256 digest
	SM2DSA            Algorithm = "SM2DSA"            // GB/T 32918.2 over e = SM3(Z_A || M), signed as given
)

// A Key is all that a backend needs to find one key pair again. It holds no
// secret in the clear and may be stored anywhere.
type Key struct {
	ID     []byte // the KeyVersionId's 16 bytes; CKA_ID in a token
	Spec   KeySpec
	Public []byte // SubjectPublicKeyInfo, DER
	Sealed []byte // the private key, sealed by the token; nil if it lives in the token
}

// A Backend makes and uses key pairs. Its methods may be called from any
// number of goroutines. They return when the work is done or ctx is; work that
// has reached a token cannot be cancelled and may still finish after that.
//
// A Route is the Backend that the rest of the program uses: the signatures of all
// others are unverified. Every implementation is held to hsmtest.TestBackend.
type Backend interface {
	// Generate makes a key pair of the given spec under id, which must be 16
	// bytes that no other key has. When it returns without an error the key
	// has made one signature that was checked, and its private half is on
	// stable storage or, sealed, in the Key. When it returns an error no
	// usable key is left behind, unless the backend was lost at that moment;
	// Destroy with the same ID clears what may be there.
	// A spec that the backend cannot make is ErrKeySpec.
	Generate(ctx context.Context, spec KeySpec, id []byte) (Key, error)

	// Sign signs digest with k's private key. A key that is not there is
	// ErrNotFound. What [Check] refuses, a Route refuses with Check's error. Other
	// backends leave that to it: they are asked for nothing that Check refuses, and
	// what they return is withheld if it does not verify with k.Public.
	Sign(ctx context.Context, k Key, alg Algorithm, digest []byte) ([]byte, error)

	// Destroy removes k's private key for good. It succeeds if the key is
	// already gone. k.ID, k.Spec and k.Sealed are looked at.
	Destroy(ctx context.Context, k Key) error

	// Has reports whether k's private key is there, as far as is known without
	// asking the token: nil, ErrNotFound, or ErrUnavailable.
	Has(k Key) error

	// Forget drops what the backend keeps of k's private key outside of where it
	// lives, to make signing faster. It is for a key that is not used any more; the
	// next signature with it takes longer, once.
	Forget(k Key)

	// Quarantine takes out of use whatever the backend has been signing with for k,
	// because a signature did not verify: before the next one it finds k's private key
	// again. It returns nil if the backend works, so that another signature is worth
	// asking for; otherwise it returns why not.
	Quarantine(ctx context.Context, k Key) error

	// Health reports nil if the backend could sign a moment ago.
	Health(ctx context.Context) error
}

// A Sealer encrypts small secrets, up to 64 KiB, under a key that it never gives out.
// Unseal returns what was sealed, for the same aad only; any other input is an error.
type Sealer interface {
	Seal(ctx context.Context, plaintext, aad []byte) ([]byte, error)
	Unseal(ctx context.Context, sealed, aad []byte) ([]byte, error)
}

// The errors that backends tell apart. Compare with errors.Is.
var (
	// ErrNotFound: the backend has no private key for this Key.
	ErrNotFound = errors.New("no such private key")
	// ErrBusy: too much work is waiting; the same call may succeed later.
	ErrBusy = errors.New("too many operations are waiting for the token")
	// ErrUnavailable: the token is not there or did not answer in time.
	ErrUnavailable = errors.New("the token is unavailable")
	// ErrRefused: the token works but rejected this operation twice; retrying may not
	// help. It wraps ErrUnavailable.
	ErrRefused = fmt.Errorf("%w: it is well, and refuses this", ErrUnavailable)
	// ErrNoRandom: the token has no usable random number generator.
	ErrNoRandom = errors.New("the token makes no random bytes that can be used")
	// ErrKeySpec: the KeySpec is unknown, or this backend cannot make such keys.
	ErrKeySpec = errors.New("KeySpec not offered")
	// ErrAlgorithm: the Algorithm is unknown or does not fit the KeySpec.
	ErrAlgorithm = errors.New("Algorithm does not fit the KeySpec")
	// ErrDigest: the digest does not have the Algorithm's length.
	ErrDigest = errors.New("digest has the wrong length")
)
