package hsm_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
)

type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// TestSM2Vectors runs vectors over a digest, which is the input of the API: the example
// of GB/T 32918.5, OpenSSL's own, and 43 signatures that must be rejected. Some vectors
// contain the message of the digest.
func TestSM2Vectors(t *testing.T) {
	data, err := os.ReadFile("testdata/sm2_sm3_digest_test.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors struct {
		NumberOfTests int
		TestGroups    []struct {
			PublicKey    struct{ Uncompressed hexBytes }
			PublicKeyDer hexBytes
			PublicKeyPem string
			Tests        []struct {
				TcId                     int
				Comment, Result          string
				Digest, Sig, Msg, UserId hexBytes
			}
		}
	}
	if err := json.Unmarshal(data, &vectors); err != nil {
		t.Fatal(err)
	}
	run, digested := 0, 0
	for _, g := range vectors.TestGroups {
		key := hsm.Key{Spec: hsm.EC_SM2, Public: g.PublicKeyDer}
		spki, err := hsm.MarshalECPublicKey(hsm.EC_SM2, g.PublicKey.Uncompressed)
		if err != nil || !slices.Equal(spki, []byte(g.PublicKeyDer)) {
			t.Errorf("MarshalECPublicKey(%x) = %x, %v, want %x", g.PublicKey.Uncompressed, spki, err, g.PublicKeyDer)
		}
		if got := hsm.PublicKeyPEM(spki); got != g.PublicKeyPem {
			t.Errorf("PublicKeyPEM = %q, want %q", got, g.PublicKeyPem)
		}
		for _, tc := range g.Tests {
			run++
			got, err := hsm.Verify(key, hsm.SM2DSA, tc.Digest, tc.Sig)
			if wrongLength := len(tc.Digest) != hsm.DigestSize; wrongLength != errors.Is(err, hsm.ErrDigest) {
				t.Errorf("vector %d (%s): error %v for a digest of %d bytes, want ErrDigest unless it has %d",
					tc.TcId, tc.Comment, err, len(tc.Digest), hsm.DigestSize)
			} else if got != (tc.Result == "valid") {
				t.Errorf("vector %d (%s): %v, want %s", tc.TcId, tc.Comment, got, tc.Result)
			}
			if tc.Msg != nil && string(tc.UserId) == "1234567812345678" {
				digested++
				if e, err := hsm.Digest(key, hsm.SM2DSA, tc.Msg); err != nil || !slices.Equal(e, tc.Digest) {
					t.Errorf("vector %d (%s): Digest = %x, %v, want %x", tc.TcId, tc.Comment, e, err, tc.Digest)
				}
			}
		}
	}
	if run != vectors.NumberOfTests || digested == 0 {
		t.Errorf("%d of %d vectors run, %d with a message; want all, and at least 1", run, vectors.NumberOfTests, digested)
	}
}

func TestVerifyCannotTell(t *testing.T) {
	var fake hsmtest.Fake
	p256, err := fake.Generate(t.Context(), hsm.EC_P256, make([]byte, 16))
	if err != nil {
		t.Fatal(err)
	}
	rsa2048, err := fake.Generate(t.Context(), hsm.RSA_2048, make([]byte, 16))
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("message"))
	for name, key := range map[string]hsm.Key{
		"no public key":          {Spec: hsm.EC_P256},
		"public key cut short":   {Spec: hsm.EC_P256, Public: p256.Public[:40]},
		"byte after the key":     {Spec: hsm.EC_P256K, Public: append(slices.Clone(p256.Public), 0)},
		"P-256 key as secp256k1": {Spec: hsm.EC_P256K, Public: p256.Public},
		"P-256 key as SM2":       {Spec: hsm.EC_SM2, Public: p256.Public},
		"P-256 key as RSA":       {Spec: hsm.RSA_2048, Public: p256.Public},
		"RSA key as P-256":       {Spec: hsm.EC_P256, Public: rsa2048.Public},
		"RSA key of 2048 bits":   {Spec: hsm.RSA_3072, Public: rsa2048.Public},
	} {
		alg := hsm.Algorithms(key.Spec)[0]
		if ok, err := hsm.Verify(key, alg, digest[:], make([]byte, 64)); ok || err == nil {
			t.Errorf("%s: Verify = %v, %v, want an error", name, ok, err)
		}
	}
	if _, err := hsm.Verify(p256, hsm.RSA_PSS_SHA_256, digest[:], nil); !errors.Is(err, hsm.ErrAlgorithm) {
		t.Errorf("Verify of P-256 under RSA_PSS_SHA_256: %v, want ErrAlgorithm", err)
	}
	if _, err := hsm.Verify(p256, hsm.ECDSA_SHA_256, digest[:31], nil); !errors.Is(err, hsm.ErrDigest) {
		t.Errorf("Verify of 31 bytes: %v, want ErrDigest", err)
	}
}

func TestPublicKeyPEM(t *testing.T) {
	var fake hsmtest.Fake
	for _, spec := range hsm.KeySpecs() {
		key, err := fake.Generate(t.Context(), spec, make([]byte, 16))
		if err != nil {
			t.Fatal(err)
		}
		text := hsm.PublicKeyPEM(key.Public)
		block, rest := pem.Decode([]byte(text))
		if block == nil || block.Type != "PUBLIC KEY" || !slices.Equal(block.Bytes, key.Public) || len(rest) != 0 {
			t.Errorf("%s: PEM %q does not contain exactly the key", spec, text)
		}
	}
}
