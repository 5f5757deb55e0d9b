package hsm

import (
	"fmt"
	"hash"
	"slices"
)

// DigestSize is the length in bytes of every digest that can be signed: all
// algorithms are defined over SHA-256 or SM3.
const DigestSize = 32

// A scheme is one row of the table of KeySpecs and their Algorithms.
type scheme struct {
	spec    KeySpec
	alg     Algorithm
	parse   func(spki []byte) (publicKey, error)
	newHash func(pub publicKey, sm2ID string) (hash.Hash, error)
	verify  func(pub publicKey, digest, sig []byte) bool
}

// schemes is the only table that pairs Algorithms with KeySpecs.
var schemes = []scheme{
	{RSA_2048, RSA_PSS_SHA_256, parseRSA(2048), newSHA256, verifyPSS},
	{RSA_2048, RSA_PKCS1_SHA_256, parseRSA(2048), newSHA256, verifyPKCS1},
	{RSA_3072, RSA_PSS_SHA_256, parseRSA(3072), newSHA256, verifyPSS},
	{RSA_3072, RSA_PKCS1_SHA_256, parseRSA(3072), newSHA256, verifyPKCS1},
	{RSA_4096, RSA_PSS_SHA_256, parseRSA(4096), newSHA256, verifyPSS},
	{RSA_4096, RSA_PKCS1_SHA_256, parseRSA(4096), newSHA256, verifyPKCS1},
	{EC_P256, ECDSA_SHA_256, parseP256, newSHA256, verifyP256},
	{EC_P256K, ECDSA_SHA_256, parseP256K, newSHA256, verifyP256K},
	{EC_SM2, SM2DSA, parseSM2, newSM3, verifySM2},
}

// specs and algorithms are the table's KeySpecs, and the algorithms of each. They are made once,
// because every signature asks for them.
var specs, algorithms = listSchemes()

func listSchemes() (specs []KeySpec, algorithms map[KeySpec][]Algorithm) {
	algorithms = make(map[KeySpec][]Algorithm)
	for _, s := range schemes {
		if !slices.Contains(specs, s.spec) {
			specs = append(specs, s.spec)
		}
		algorithms[s.spec] = slices.Clip(append(algorithms[s.spec], s.alg))
	}
	return slices.Clip(specs), algorithms
}

// KeySpecs lists the KeySpecs that can sign, in the table's order. The caller must not change the
// list.
func KeySpecs() []KeySpec { return specs }

// Algorithms lists the algorithms that fit spec. The list is empty for a KeySpec that
// cannot sign. The caller must not change the list.
func Algorithms(spec KeySpec) []Algorithm { return algorithms[spec] }

// Check returns nil if digest may be signed under alg with a key of spec. Otherwise
// the error is ErrAlgorithm or ErrDigest and names what would fit.
func Check(spec KeySpec, alg Algorithm, digest []byte) error {
	_, err := lookup(spec, alg, digest)
	return err
}

func lookup(spec KeySpec, alg Algorithm, digest []byte) (scheme, error) {
	s, err := fitting(spec, alg)
	if err == nil && len(digest) != DigestSize {
		err = fmt.Errorf("%w: got %d bytes, but %s signs %d", ErrDigest, len(digest), alg, DigestSize)
	}
	return s, err
}

func fitting(spec KeySpec, alg Algorithm) (scheme, error) {
	i := slices.IndexFunc(schemes, func(s scheme) bool { return s.spec == spec && s.alg == alg })
	if i < 0 {
		return scheme{}, fmt.Errorf("%w: a key of KeySpec %q signs with %v", ErrAlgorithm, spec, Algorithms(spec))
	}
	return schemes[i], nil
}

// public returns k's parsed public half.
func (s scheme) public(k Key) (publicKey, error) {
	if pub, ok := parsed.get(k); ok {
		return pub, nil
	}
	pub, err := s.parse(k.Public)
	if err != nil {
		return nil, fmt.Errorf("parsing the public key of a %s key: %w", k.Spec, err)
	}
	parsed.put(k, pub)
	return pub, nil
}
