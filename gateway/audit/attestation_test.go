package audit_test

import (
	"crypto/sha256"
	"testing"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

// TestSignAttestation signs attestations and no other text. The signature is valid for no checkpoint.
func TestSignAttestation(t *testing.T) {
	log := open(t, newLog(t, 3))
	head := log.Head()
	c := audit.Checkpoint{Head: head}
	for text, signs := range map[string]bool{
		`{"Format":"kmsgate attestation 1","Kind":"batch"}`:  true,
		`{"Format":"kmsgate attestation 2","Kind":"batch"}`:  false,
		` {"Format":"kmsgate attestation 1","Kind":"batch"}`: false,
		"kmsgate audit checkpoint 1\n3\n":                    false,
		"kmsgate backup manifest 1\n":                        false,
		"":                                                   false,
	} {
		signature, err := log.SignAttestation(t.Context(), []byte(text))
		if signs != (err == nil) {
			t.Errorf("%q: got %v, want signed %v", text, err, signs)
		}
		if !signs {
			continue
		}
		if digest := sha256.Sum256([]byte(text)); !audit.Signed(&key.PublicKey, digest[:], signature) {
			t.Errorf("%q: the signature is not valid", text)
		}
		if c.Signature = signature; c.Check(&key.PublicKey) {
			t.Errorf("%q: the signature is valid for a checkpoint", text)
		}
	}
}
