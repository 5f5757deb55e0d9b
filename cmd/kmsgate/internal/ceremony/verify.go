package ceremony

import (
	"errors"
	"fmt"
	"slices"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/attestation"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
)

// A Proof is a transcript with what the gateway attests of it.
type Proof struct {
	Transcript  Transcript
	Attestation kms.Attestation
}

// Verify verifies a transcript: the audit key signed its attestation, and the transcript has every
// step of its plan. The gateway attests every key version that the transcript lists, and the token
// protects it or, for EC_SM2, the key that seals it. The rest is the word of the person who ran the ceremony:
// operators, times, states and RequestIds.
func Verify(key audit.PublicKey, path string) (p Proof, err error) {
	text, a, err := attestation.Read(key, attestation.Ceremony, path)
	if err != nil {
		return p, err
	}
	p.Attestation = a
	if p.Transcript, err = decodeTranscript(text); err != nil {
		return p, fmt.Errorf("reading %s: %w", path, err)
	}
	return p, p.check()
}

// check compares a transcript with its plan and its attestation.
func (p Proof) check() error {
	t := p.Transcript
	plan, err := ParsePlan([]byte(t.Plan))
	if err != nil {
		return fmt.Errorf("the transcript's plan has mistakes: %w", err)
	}
	if t.Title != plan.Title || !slices.Equal(t.Operators, plan.Operators) {
		return errors.New("the transcript does not have the title and the operators of its plan")
	}
	if t.Instance != p.Attestation.Instance {
		return fmt.Errorf("the transcript is of instance %s, but instance %s attests it", t.Instance, p.Attestation.Instance)
	}
	if p.Attestation.Module == nil || p.Attestation.Token == nil {
		return errors.New("the attestation does not have what the token reports")
	}
	steps, err := plan.steps()
	if err != nil {
		return err
	}
	if len(steps) != len(t.Steps) {
		return fmt.Errorf("the transcript has %d steps, and its plan %d", len(t.Steps), len(steps))
	}
	for i, s := range steps {
		if got := t.Steps[i]; got.Action != s.Action || got.Name != s.Name || !got.isCompleted() {
			return fmt.Errorf("step %d of the transcript must be a completed %s of %q", i+1, s.Action, s.Name)
		}
	}
	if len(plan.Keys) != len(t.Keys) {
		return fmt.Errorf("the transcript has %d keys, and its plan %d", len(t.Keys), len(plan.Keys))
	}
	seen := make(map[string]bool)
	for i, k := range plan.Keys {
		if seen[t.Keys[i].KeyId] {
			return fmt.Errorf("key %q is also another key of the plan", k.Alias)
		}
		seen[t.Keys[i].KeyId] = true
		if k.Protect && t.Keys[i].DeletionProtection != "Enabled" {
			return fmt.Errorf("key %q is not protected from deletion, as the plan says", k.Alias)
		}
		if k.Policy != "" && !k.Policy.Equal(t.Keys[i].Policy) {
			return fmt.Errorf("key %q does not have the policy of the plan", k.Alias)
		}
		if r := t.Keys[i]; r.Alias != k.Alias || string(r.KeySpec) != k.Spec || len(r.KeyVersionIds) == 0 {
			return fmt.Errorf("the transcript does not have key %q with KeySpec %s and a version", k.Alias, k.Spec)
		}
		if err := p.checkKey(t.Keys[i]); err != nil {
			return fmt.Errorf("key %q: %w", k.Alias, err)
		}
	}
	return nil
}

// isCompleted reports whether a step has one of the states of a ceremony that has ended, with what
// belongs to it.
func (s Step) isCompleted() bool {
	switch s.State {
	case Done:
		return s.RequestId != ""
	case Existed, Lost:
		return s.RequestId == ""
	}
	return false
}

// checkKey checks that a key's versions are attested, and protected.
func (p Proof) checkKey(r KeyRecord) error {
	for _, id := range r.KeyVersionIds {
		i := slices.IndexFunc(p.Attestation.Keys, func(a kms.AttestedKey) bool { return a.KeyId == r.KeyId && a.KeyVersionId == id })
		if i < 0 || p.Attestation.Keys[i].KeySpec != r.KeySpec || p.Attestation.Keys[i].KeyState != "Enabled" {
			return fmt.Errorf("the attestation does not have key version %s, enabled and with KeySpec %s", id, r.KeySpec)
		}
		if err := checkProtection(p.Attestation.Keys[i].Attributes); err != nil {
			return fmt.Errorf("key version %s: %w", id, err)
		}
	}
	return nil
}

// protection has the attributes of a key that was generated in its token and cannot leave it (PKCS#11
// 2.40, 4.9 and 4.10).
var protection = []struct {
	hsm.Attribute
	required bool // the token must report it
}{
	{hsm.Attribute{Name: "CKA_TOKEN", Value: "true"}, true},
	{hsm.Attribute{Name: "CKA_SENSITIVE", Value: "true"}, true},
	{hsm.Attribute{Name: "CKA_EXTRACTABLE", Value: "false"}, true},
	{hsm.Attribute{Name: "CKA_ALWAYS_SENSITIVE", Value: "true"}, false},
	{hsm.Attribute{Name: "CKA_NEVER_EXTRACTABLE", Value: "true"}, false},
	{hsm.Attribute{Name: "CKA_LOCAL", Value: "true"}, false},
}

func checkProtection(attributes []hsm.Attribute) error {
	var errs []error
	for _, want := range protection {
		i := slices.IndexFunc(attributes, func(a hsm.Attribute) bool { return a.Name == want.Name })
		switch {
		case i < 0 && want.required:
			errs = append(errs, fmt.Errorf("the token does not report %s, which must be %s", want.Name, want.Value))
		case i >= 0 && attributes[i].Value != want.Value:
			errs = append(errs, fmt.Errorf("the token reports %s %q instead of %q: the key may leave the token, or come from outside", want.Name, attributes[i].Value, want.Value))
		}
	}
	return errors.Join(errs...)
}
