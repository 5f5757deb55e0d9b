// Package privatekey makes, reads and writes private keys of KMS's KeySpecs, in memory. It is for
// tests: a gateway's own keys are made in its token.
package privatekey

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	secp256k1ecdsa "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
	"github.com/emmansun/gmsm/sm2"

	"github.com/kmsgate/kmsgate/hsm"
)

// A Key is a key pair in memory, of one of KMS's KeySpecs. It is safe for concurrent use.
type Key struct {
	spec   hsm.KeySpec
	public []byte // SubjectPublicKeyInfo, DER
	// private is an *rsa.PrivateKey, *ecdsa.PrivateKey, *secp256k1.PrivateKey or *sm2.PrivateKey.
	private any
}

// scalarSize is the size of a private key on each of the curves, in bytes.
const scalarSize = 32

// rsaBits are the sizes of RSA keys.
var rsaBits = map[hsm.KeySpec]int{hsm.RSA_2048: 2048, hsm.RSA_3072: 3072, hsm.RSA_4096: 4096}

// New makes a key pair. The error is hsm.ErrKeySpec if the KeySpec is unknown.
func New(spec hsm.KeySpec) (k Key, err error) {
	switch spec {
	case hsm.RSA_2048, hsm.RSA_3072, hsm.RSA_4096:
		key, err := rsa.GenerateKey(rand.Reader, rsaBits[spec])
		if err != nil {
			return k, err
		}
		return newRSA(key)
	case hsm.EC_P256, hsm.EC_P256K, hsm.EC_SM2:
		for {
			scalar := make([]byte, scalarSize)
			rand.Read(scalar)
			if k, err = newEC(spec, scalar); err == nil { // an error has a probability of 2^-32 at most
				return k, nil
			}
		}
	}
	return k, fmt.Errorf("%w: %q", hsm.ErrKeySpec, spec)
}

func newRSA(key *rsa.PrivateKey) (k Key, err error) {
	for spec, bits := range rsaBits {
		if key.N.BitLen() == bits {
			k.spec = spec
		}
	}
	if k.spec == "" {
		return k, fmt.Errorf("%w: an RSA key of %d bits", hsm.ErrKeySpec, key.N.BitLen())
	}
	k.private = key
	k.public, err = x509.MarshalPKIXPublicKey(&key.PublicKey)
	return k, err
}

// newEC returns the key pair of a scalar, big-endian.
func newEC(spec hsm.KeySpec, scalar []byte) (k Key, err error) {
	k.spec = spec
	if len(scalar) != scalarSize {
		return k, fmt.Errorf("an %s private key has %d bytes instead of %d", spec, len(scalar), scalarSize)
	}
	switch spec {
	case hsm.EC_P256:
		key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar)
		if err != nil {
			return k, err
		}
		k.private = key
		k.public, err = x509.MarshalPKIXPublicKey(&key.PublicKey)
		return k, err
	case hsm.EC_P256K:
		var s secp256k1.ModNScalar
		if overflow := s.SetByteSlice(scalar); overflow || s.IsZero() {
			return k, errors.New("the private key is not in the group's range")
		}
		key := secp256k1.NewPrivateKey(&s)
		k.private = key
		k.public, err = hsm.MarshalECPublicKey(spec, key.PubKey().SerializeUncompressed())
		return k, err
	}
	key, err := sm2.NewPrivateKey(scalar)
	if err != nil {
		return k, err
	}
	point, err := sm2.PublicKeyToECDH(&key.PublicKey)
	if err != nil {
		return k, err
	}
	k.private = key
	k.public, err = hsm.MarshalECPublicKey(spec, point.Bytes())
	return k, err
}

// Spec returns the KeySpec.
func (k Key) Spec() hsm.KeySpec { return k.spec }

// Public returns the SubjectPublicKeyInfo in DER.
func (k Key) Public() []byte { return slices.Clone(k.public) }

// Scalar returns the private key of a curve, 32 bytes big-endian, or nil for RSA.
func (k Key) Scalar() []byte {
	switch private := k.private.(type) {
	case *ecdsa.PrivateKey:
		scalar, err := private.Bytes()
		if err != nil {
			panic(err) // cannot happen: newEC makes only valid keys
		}
		return scalar
	case *secp256k1.PrivateKey:
		return private.Serialize()
	case *sm2.PrivateKey:
		return private.D.FillBytes(make([]byte, scalarSize))
	}
	return nil
}

// RSA returns the private key for RSA, else nil.
func (k Key) RSA() *rsa.PrivateKey {
	private, _ := k.private.(*rsa.PrivateKey)
	return private
}

// Sign signs a digest, as hsm.Backend does, without checking its arguments.
func (k Key) Sign(alg hsm.Algorithm, digest []byte) ([]byte, error) {
	switch private := k.private.(type) {
	case *rsa.PrivateKey:
		if alg == hsm.RSA_PSS_SHA_256 {
			return private.Sign(rand.Reader, digest, &rsa.PSSOptions{SaltLength: hsm.DigestSize, Hash: crypto.SHA256})
		}
		return private.Sign(rand.Reader, digest, crypto.SHA256)
	case *ecdsa.PrivateKey:
		return ecdsa.SignASN1(rand.Reader, private, digest)
	case *secp256k1.PrivateKey:
		return secp256k1ecdsa.Sign(private, digest).Serialize(), nil
	case *sm2.PrivateKey:
		return sm2.SignASN1(rand.Reader, private, digest, nil)
	}
	return nil, hsm.ErrNotFound
}

// PrivateKeyInfo of PKCS#8 (RFC 5208, 5), and ECPrivateKey of SEC 1 (RFC 5915, 3).
type (
	privateKeyInfo struct {
		Version    int
		Algorithm  pkix.AlgorithmIdentifier
		PrivateKey []byte
	}
	ecPrivateKey struct {
		Version    int
		PrivateKey []byte
		Curve      asn1.ObjectIdentifier `asn1:"optional,explicit,tag:0"`
		Public     asn1.BitString        `asn1:"optional,explicit,tag:1"`
	}
)

var oidECPublicKey = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}

// Parse parses a private key in PEM: PKCS#8, PKCS#1 (RSA) or SEC 1 (curves), not encrypted,
// as openssl writes it.
func Parse(text []byte) (k Key, err error) {
	block, rest := pem.Decode(text)
	for block != nil && strings.HasSuffix(block.Type, " PARAMETERS") { // openssl ecparam writes it first
		block, rest = pem.Decode(rest)
	}
	if block == nil {
		return k, errors.New("it has no private key in PEM")
	}
	if block.Headers["DEK-Info"] != "" {
		block.Type = "ENCRYPTED PRIVATE KEY" // of PKCS#1 or SEC 1 with a password
	}
	switch block.Type {
	case "PRIVATE KEY":
		return parsePKCS8(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
		if err != nil {
			return k, err
		}
		return newRSA(key)
	case "EC PRIVATE KEY", "SM2 PRIVATE KEY":
		return parseEC(block.Bytes, nil)
	}
	return k, fmt.Errorf("it is a %s, not an unencrypted private key (openssl pkey -in FILE -out NEW removes a password)", block.Type)
}

func parsePKCS8(der []byte) (k Key, err error) {
	var info privateKeyInfo
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		return k, fmt.Errorf("reading PKCS#8: %w", err)
	}
	if info.Algorithm.Algorithm.Equal(oidECPublicKey) {
		return parseEC(info.PrivateKey, info.Algorithm.Parameters.FullBytes)
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return k, err
	}
	if key, ok := key.(*rsa.PrivateKey); ok {
		return newRSA(key)
	}
	return k, fmt.Errorf("%w: a private key of type %T", hsm.ErrKeySpec, key)
}

// parseEC parses an ECPrivateKey. curve is the DER of the curve's object identifier, or nil if it is
// in the key.
func parseEC(der, curve []byte) (k Key, err error) {
	var key ecPrivateKey
	if _, err := asn1.Unmarshal(der, &key); err != nil {
		return k, fmt.Errorf("reading an ECPrivateKey: %w", err)
	}
	if curve == nil {
		if curve, err = asn1.Marshal(key.Curve); err != nil {
			return k, errors.New("the private key names no curve")
		}
	}
	for _, spec := range []hsm.KeySpec{hsm.EC_P256, hsm.EC_P256K, hsm.EC_SM2} {
		if oid, err := hsm.CurveOID(spec); err == nil && slices.Equal(oid, curve) {
			return newEC(spec, key.PrivateKey)
		}
	}
	return k, fmt.Errorf("%w: the private key is not on P-256, secp256k1 or SM2", hsm.ErrKeySpec)
}

// PEM returns the private key as PKCS#8 in PEM.
func (k Key) PEM() ([]byte, error) {
	if private := k.RSA(); private != nil {
		der, err := x509.MarshalPKCS8PrivateKey(private)
		return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
	}
	curve, err := hsm.CurveOID(k.spec)
	if err != nil {
		return nil, err
	}
	inner, err := asn1.Marshal(ecPrivateKey{Version: 1, PrivateKey: k.Scalar()})
	if err != nil {
		return nil, err
	}
	der, err := asn1.Marshal(privateKeyInfo{PrivateKey: inner,
		Algorithm: pkix.AlgorithmIdentifier{Algorithm: oidECPublicKey, Parameters: asn1.RawValue{FullBytes: curve}}})
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}
