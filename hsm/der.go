package hsm

import (
	"bytes"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// scalarSize is the length in bytes of r and of s on all three curves.
const scalarSize = 32

// pointSize is the length in bytes of an uncompressed point: 0x04, x, y.
const pointSize = 1 + 2*scalarSize

var oidECPublicKey = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}

// curves names the curves of the EC KeySpecs: RFC 5480 for P-256, SEC 2 for
// secp256k1, GB/T 33560 for SM2.
var curves = map[KeySpec]asn1.ObjectIdentifier{
	EC_P256:  {1, 2, 840, 10045, 3, 1, 7},
	EC_P256K: {1, 3, 132, 0, 10},
	EC_SM2:   {1, 2, 156, 10197, 1, 301},
}

// CurveOID returns the DER of the named curve of an EC KeySpec, as used in
// CKA_EC_PARAMS and in a SubjectPublicKeyInfo.
func CurveOID(spec KeySpec) ([]byte, error) {
	oid, ok := curves[spec]
	if !ok {
		return nil, fmt.Errorf("%w: %s has no curve", ErrKeySpec, spec)
	}
	return asn1.Marshal(oid)
}

// MarshalECPublicKey returns the SubjectPublicKeyInfo of an uncompressed point
// (65 bytes) on the named curve of an EC KeySpec. The standard library supports
// P-256 only. MarshalECPublicKey does not check that the point is on the curve.
func MarshalECPublicKey(spec KeySpec, point []byte) ([]byte, error) {
	oid, ok := curves[spec]
	if !ok {
		return nil, fmt.Errorf("%w: %s has no curve", ErrKeySpec, spec)
	}
	if len(point) != pointSize || point[0] != 4 {
		return nil, fmt.Errorf("encoding an EC public key: got %d bytes, want an uncompressed point of %d",
			len(point), pointSize)
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidECPublicKey)
			b.AddASN1ObjectIdentifier(oid)
		})
		b.AddASN1BitString(point)
	})
	return b.Bytes()
}

// ParseECPublicKey returns the uncompressed point of a SubjectPublicKeyInfo. It is the inverse of
// MarshalECPublicKey, and rejects every other encoding.
func ParseECPublicKey(spec KeySpec, spki []byte) ([]byte, error) {
	input := cryptobyte.String(spki)
	var seq, algorithm cryptobyte.String
	var keyType, curve asn1.ObjectIdentifier
	var point []byte
	if !input.ReadASN1(&seq, cbasn1.SEQUENCE) || !input.Empty() ||
		!seq.ReadASN1(&algorithm, cbasn1.SEQUENCE) ||
		!algorithm.ReadASN1ObjectIdentifier(&keyType) ||
		!algorithm.ReadASN1ObjectIdentifier(&curve) || !algorithm.Empty() ||
		!seq.ReadASN1BitStringAsBytes(&point) || !seq.Empty() {
		return nil, errors.New("not the SubjectPublicKeyInfo of an EC key")
	}
	if !keyType.Equal(oidECPublicKey) || !curve.Equal(curves[spec]) {
		return nil, fmt.Errorf("not a key on the curve of %s", spec)
	}
	if len(point) != pointSize || point[0] != 4 {
		return nil, errors.New("not an uncompressed point")
	}
	return point, nil
}

// MarshalSignature converts r and s, 32 big-endian bytes each (as CKM_ECDSA returns
// them), into the DER of SEQUENCE{r, s} (as KMS returns it). The result has 8 to 72 bytes.
func MarshalSignature(rs []byte) ([]byte, error) {
	if len(rs) != 2*scalarSize {
		return nil, fmt.Errorf("encoding a signature: got %d bytes, want r and s of %d each", len(rs), scalarSize)
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		addInteger(b, rs[:scalarSize])
		addInteger(b, rs[scalarSize:])
	})
	return b.Bytes()
}

func addInteger(b *cryptobyte.Builder, bigEndian []byte) {
	bigEndian = bytes.TrimLeft(bigEndian, "\x00")
	b.AddASN1(cbasn1.INTEGER, func(b *cryptobyte.Builder) {
		if len(bigEndian) == 0 || bigEndian[0] >= 0x80 {
			b.AddUint8(0) // DER integers are signed
		}
		b.AddBytes(bigEndian)
	})
}

// parseSignature is the inverse of MarshalSignature. For every sig that it accepts,
// MarshalSignature of r and s, padded to 32 bytes, returns sig again.
func parseSignature(sig []byte) (r, s []byte, ok bool) {
	input := cryptobyte.String(sig)
	var seq cryptobyte.String
	if !input.ReadASN1(&seq, cbasn1.SEQUENCE) || !input.Empty() ||
		!seq.ReadASN1Integer(&r) || !seq.ReadASN1Integer(&s) || !seq.Empty() ||
		len(r) > scalarSize || len(s) > scalarSize {
		return nil, nil, false
	}
	return r, s, true
}

// PublicKeyPEM returns a SubjectPublicKeyInfo in the form of KMS's GetPublicKey: PEM of
// type PUBLIC KEY, in lines of 64 columns, with a trailing newline.
func PublicKeyPEM(spki []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))
}
