package signer

import (
	"crypto/rsa"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/emmansun/gmsm/smx509"
	"golang.org/x/crypto/sha3"
	"golang.org/x/crypto/ssh"

	"github.com/kmsgate/kmsgate/hsm"
)

// Formats are the forms in which PublicKey shows a public key.
var Formats = []string{"pem", "der", "jwk", "ssh", "ethereum"}

// PublicKey returns the public key as PEM or DER (SubjectPublicKeyInfo), as a JSON Web Key (RFC
// 7517, 8812), as a line of an OpenSSH authorized_keys file, or as an Ethereum address with its
// checksum (EIP-55). A format that has no form for the KeySpec is an error.
func (k Key) PublicKey(format string) ([]byte, error) {
	switch format {
	case "der":
		return k.Public(), nil
	case "jwk":
		return k.jwk()
	case "ssh":
		return k.ssh()
	case "ethereum":
		return k.ethereum()
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: k.Public()}), nil
}

// point returns the point of a public key on a curve: 0x04, x and y, 32 bytes each.
func (k Key) point() ([]byte, error) {
	var spki struct {
		Algorithm asn1.RawValue
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(k.Public(), &spki); err != nil {
		return nil, err
	}
	if p := spki.Key.Bytes; len(p) == 65 && p[0] == 4 {
		return p, nil
	}
	return nil, fmt.Errorf("a key of KeySpec %s is not a point on a curve", k.Spec())
}

func (k Key) jwk() ([]byte, error) {
	b64 := base64.RawURLEncoding.EncodeToString
	key := map[string]string{"kid": k.KeyVersionId, "use": "sig"}
	curves := map[hsm.KeySpec]string{hsm.EC_P256: "P-256", hsm.EC_P256K: "secp256k1"}
	switch curve := curves[k.Spec()]; {
	case k.Spec() == hsm.EC_SM2:
		return nil, errors.New("no JSON Web Key is defined for SM2")
	case curve != "":
		point, err := k.point()
		if err != nil {
			return nil, err
		}
		key["kty"], key["crv"], key["x"], key["y"] = "EC", curve, b64(point[1:33]), b64(point[33:])
		key["alg"] = map[hsm.KeySpec]string{hsm.EC_P256: "ES256", hsm.EC_P256K: "ES256K"}[k.Spec()]
	default:
		parsed, err := smx509.ParsePKIXPublicKey(k.Public())
		if err != nil {
			return nil, err
		}
		public, ok := parsed.(*rsa.PublicKey)
		if !ok {
			return nil, fmt.Errorf("no JSON Web Key is defined for KeySpec %s", k.Spec())
		}
		n, e := public.N.Bytes(), big.NewInt(int64(public.E)).Bytes()
		key["kty"], key["n"], key["e"] = "RSA", b64(n), b64(e)
	}
	text, err := json.MarshalIndent(key, "", "  ")
	return append(text, '\n'), err
}

func (k Key) ssh() ([]byte, error) {
	public, err := smx509.ParsePKIXPublicKey(k.Public())
	if err != nil || k.Spec() == hsm.EC_SM2 {
		return nil, fmt.Errorf("OpenSSH has no keys of KeySpec %s", k.Spec())
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return nil, err
	}
	return ssh.MarshalAuthorizedKey(key), nil
}

// ethereum returns the last 20 bytes of Keccak-256 of the point, with EIP-55's checksum in the case
// of its letters.
func (k Key) ethereum() ([]byte, error) {
	if k.Spec() != hsm.EC_P256K {
		return nil, fmt.Errorf("a key of KeySpec %s has no Ethereum address: EC_P256K keys have", k.Spec())
	}
	point, err := k.point()
	if err != nil {
		return nil, err
	}
	address := []byte(hex.EncodeToString(keccak(point[1:])[12:]))
	for i, digit := range []byte(hex.EncodeToString(keccak(address)))[:len(address)] {
		if digit >= '8' && address[i] >= 'a' {
			address[i] -= 'a' - 'A'
		}
	}
	return slices.Concat([]byte("0x"), address, []byte("\n")), nil
}

func keccak(data []byte) []byte {
	h := sha3.NewLegacyKeccak256()
	h.Write(data)
	return h.Sum(nil)
}
