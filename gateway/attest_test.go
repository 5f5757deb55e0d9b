package gateway_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
)

// attest returns an attestation of a bench's gateway, whose signature it checks.
func (b *bench) attest(key *ecdsa.PublicKey, parameters ...string) (a kms.Attestation) {
	b.t.Helper()
	var answer kms.CreateAttestationResponse
	if err := b.admin().Call(b.t.Context(), "CreateAttestation", params(parameters...), &answer); err != nil {
		b.t.Fatal(err)
	}
	digest := sha256.Sum256(answer.Attestation)
	if !audit.Signed(key, digest[:], answer.Signature) {
		b.t.Errorf("the signature of %s is not valid", answer.Attestation)
	}
	d := json.NewDecoder(bytes.NewReader(answer.Attestation))
	d.DisallowUnknownFields()
	if err := d.Decode(&a); err != nil || a.RequestId != answer.RequestId {
		b.t.Errorf("got %s, %v, want the attestation of request %s", answer.Attestation, err, answer.RequestId)
	}
	return a
}

// TestAttestation attests keys with and without a look into the token. Keys that do not exist are left
// out.
func TestAttestation(t *testing.T) {
	b, key := signing(t)
	sm2 := b.newPair(hsm.EC_SM2)
	document := strings.Repeat("0a", 32)
	parameters := []string{"Kind", "batch", "Document", document,
		"KeyVersions.1.KeyId", b.key.KeyId, "KeyVersions.1.KeyVersionId", b.key.KeyVersionId,
		"KeyVersions.2.KeyId", b.key.KeyId, "KeyVersions.2.KeyVersionId", "none",
		"KeyVersions.3.KeyId", "none", "KeyVersions.3.KeyVersionId", "none",
		"KeyVersions.4.KeyId", sm2.KeyId, "KeyVersions.4.KeyVersionId", sm2.KeyVersionId}
	a := b.attest(key, parameters...)
	if a.Format != audit.AttestationFormat || a.Kind != "batch" || a.Document != document || a.AuditHead.Seq == 0 || len(a.AuditHead.Hash) != 64 ||
		!strings.HasPrefix(a.Principal, "local:") || !strings.HasSuffix(a.Instance, "keystore/kst-test") || a.Time.IsZero() || a.Token != nil || len(a.Keys) != 2 {
		t.Errorf("got %+v", a)
	}
	if k := a.Keys[0]; k.KeyVersionId != b.key.KeyVersionId || !bytes.Equal(k.PublicKey, b.record(b.key.KeyId).Key.Public) || k.KeyState != "Enabled" || k.Protection != kms.ProtectionToken ||
		k.CreationDate.IsZero() || k.Attributes != nil {
		t.Errorf("got %+v, want version %s", k, b.key.KeyVersionId)
	}
	if k := a.Keys[1]; k.KeySpec != hsm.EC_SM2 || k.KeyVersionId != sm2.KeyVersionId {
		t.Errorf("got %+v, want the SM2 key", k)
	}
	b.setState(b.key.KeyId, "Disabled")
	a = b.attest(key, append(parameters, "Inspect", "true")...)
	if a.Module == nil || a.Token == nil || a.Token.Label != "fake" || a.Keys[0].KeyState != "Disabled" || len(a.Keys[0].Attributes) == 0 {
		t.Errorf("with Inspect: got %+v, want a token and attributes", a)
	}
	lines := b.auditLines()
	if e := lines[len(lines)-1]; e.Subject != "batch/"+document || e.Code != "" {
		t.Errorf("the audit line is %+v, want the document in it", e)
	}
}

// TestAttestationNeedsKey attests no key that does not sign.
func TestAttestationNeedsKey(t *testing.T) {
	b, _ := signing(t)
	b.backend.Lose(b.record(b.key.KeyId).Key)
	var api *kms.Error
	err := b.admin().Call(t.Context(), "CreateAttestation", params("Kind", "ceremony", "Document", strings.Repeat("0a", 32), "Inspect", "true",
		"KeyVersions.1.KeyId", b.key.KeyId, "KeyVersions.1.KeyVersionId", b.key.KeyVersionId), nil)
	if !errors.As(err, &api) || api.Code != kms.ErrKeyUnavailable.Code {
		t.Errorf("got %v, want %v", err, kms.ErrKeyUnavailable)
	}
}

// TestReference writes what a local request belongs to into its audit line, and refuses what could
// forge one.
func TestReference(t *testing.T) {
	b := newBench(t)
	c := b.admin()
	for reference, valid := range map[string]bool{"batch 7 line 1": true, strings.Repeat("é", 128): true, strings.Repeat("x", 129): false, "a\x00b": false} {
		err := c.Do(t.Context(), kms.AdminRequest{Action: "ListUsers", Reference: reference}, nil)
		if valid != (err == nil) || !valid && !errors.Is(err, kms.ErrInvalidParameter) {
			t.Errorf("%q: got %v, want valid %v", reference, err, valid)
		}
		lines := b.auditLines()
		if e := lines[len(lines)-1]; e.Reference != kms.Clip(reference) {
			t.Errorf("%q: the audit line has %q", reference, e.Reference)
		}
	}
}
