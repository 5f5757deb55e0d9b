package hsm_test

import (
	"crypto/sha256"
	"encoding/json"
	"os"
	"testing"

	"github.com/kmsgate/kmsgate/hsm"
)

// TestWycheproof runs the vectors of Project Wycheproof against hsm.Verify.
func TestWycheproof(t *testing.T) {
	for _, tc := range []struct {
		file string
		spec hsm.KeySpec
		alg  hsm.Algorithm
	}{
		{"ecdsa_secp256r1_sha256_test.json", hsm.EC_P256, hsm.ECDSA_SHA_256},
		{"ecdsa_secp256k1_sha256_test.json", hsm.EC_P256K, hsm.ECDSA_SHA_256},
		{"rsa_signature_2048_sha256_test.json", hsm.RSA_2048, hsm.RSA_PKCS1_SHA_256},
		{"rsa_signature_3072_sha256_test.json", hsm.RSA_3072, hsm.RSA_PKCS1_SHA_256},
		{"rsa_pss_2048_sha256_mgf1_32_test.json", hsm.RSA_2048, hsm.RSA_PSS_SHA_256},
		{"rsa_pss_3072_sha256_mgf1_32_test.json", hsm.RSA_3072, hsm.RSA_PSS_SHA_256},
	} {
		t.Run(tc.file, func(t *testing.T) {
			data, err := os.ReadFile("testdata/wycheproof/" + tc.file)
			if err != nil {
				t.Fatal(err)
			}
			var vectors struct {
				NumberOfTests int
				TestGroups    []struct {
					PublicKeyDer hexBytes
					Tests        []struct {
						TcId            int
						Comment, Result string
						Msg, Sig        hexBytes
					}
				}
			}
			if err := json.Unmarshal(data, &vectors); err != nil {
				t.Fatal(err)
			}
			run := 0
			for _, g := range vectors.TestGroups {
				key := hsm.Key{Spec: tc.spec, Public: g.PublicKeyDer}
				for _, v := range g.Tests {
					run++
					digest := sha256.Sum256(v.Msg)
					got, err := hsm.Verify(key, tc.alg, digest[:], v.Sig)
					if err != nil {
						t.Fatalf("vector %d (%s): %v", v.TcId, v.Comment, err)
					}
					// "acceptable" marks legacy forms of PKCS #1, which a verifier may
					// accept or reject.
					want := v.Result == "valid"
					if got != want && v.Result != "acceptable" {
						t.Errorf("vector %d (%s): %v, want %v", v.TcId, v.Comment, got, want)
					}
				}
			}
			if run != vectors.NumberOfTests || run == 0 {
				t.Errorf("%d of %d vectors run, want all", run, vectors.NumberOfTests)
			}
		})
	}
}
