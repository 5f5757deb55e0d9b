package token_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
)

// TestAuditKeyApart signs with an audit key on several connections. A record with the key's id never
// signs, whatever its public key, and the key's label tells it apart from signing keys.
func TestAuditKeyApart(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	own, other := generate(t, tok.Audit(), hsm.EC_P256), generate(t, tok, hsm.EC_P256)
	tok.Reserve(own.ID)
	forged := hsm.Key{ID: own.ID, Spec: other.Spec, Public: other.Public}
	for _, moment := range []string{"at first", "reconnected"} {
		if err := sign(t.Context(), tok.Audit(), own); err != nil {
			t.Errorf("%s: Sign with the audit key: %v", moment, err)
		}
		if err := sign(t.Context(), tok.Audit(), other); !errors.Is(err, hsm.ErrNotFound) {
			t.Errorf("%s: Sign for the audit log with a signing key: %v, want ErrNotFound", moment, err)
		}
		for _, k := range []hsm.Key{own, forged} {
			if err := sign(t.Context(), tok, k); !errors.Is(err, hsm.ErrNotFound) {
				t.Errorf("%s: Sign for a user with the audit key: %v, want ErrNotFound", moment, err)
			}
			if err := tok.Destroy(t.Context(), k); !errors.Is(err, hsm.ErrReserved) {
				t.Errorf("%s: Destroy: %v, want ErrReserved", moment, err)
			}
		}
		losses := tok.Stats().Losses
		f.CloseSessions()
		signUntil(t, tok, other, "the loss is noticed", func() bool { return tok.Stats().Losses > losses })
	}
	objects, err := tok.Objects(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, o := range objects {
		if bytes.Equal(o.ID, own.ID) {
			found++
			if o.Label != "kmsgate-audit" || o.Purpose != hsm.PurposeAudit || !o.Ours {
				t.Errorf("half of the audit key: %+v", o)
			}
			if err := tok.DestroyObject(t.Context(), o); !errors.Is(err, hsm.ErrReserved) {
				t.Errorf("DestroyObject of the audit key: %v, want ErrReserved", err)
			}
		}
	}
	if found != 2 {
		t.Errorf("the token has %d halves of the audit key, want 2", found)
	}
}

// TestAuditKeyOfEarlierVersion signs with an audit key that has the label of signing keys, on
// several connections. Once it is reserved, no user's record signs with it.
func TestAuditKeyOfEarlierVersion(t *testing.T) {
	soft, _ := newSoftHSM(t)
	tok := open(t, config(soft))
	own, other := generate(t, tok, hsm.EC_P256), generate(t, tok, hsm.EC_P256)
	for range 2 {
		tok.Reserve(own.ID)
		if err := sign(t.Context(), tok.Audit(), own); err != nil {
			t.Errorf("Sign with the audit key: %v", err)
		}
		for name, err := range map[string]error{"Sign": sign(t.Context(), tok, own), "Has": tok.Has(own)} {
			if !errors.Is(err, hsm.ErrNotFound) {
				t.Errorf("%s of a user's record with the audit key: %v, want ErrNotFound", name, err)
			}
		}
		if err := sign(t.Context(), tok.Audit(), other); !errors.Is(err, hsm.ErrNotFound) {
			t.Errorf("Sign for the audit log with a signing key: %v, want ErrNotFound", err)
		}
		if err := tok.Close(); err != nil {
			t.Fatal(err)
		}
		tok = open(t, config(soft))
	}
	// Where the token has a key with the audit label, a record cannot make a signing key sign for the
	// audit log.
	generate(t, tok.Audit(), hsm.EC_P256)
	tok.Reserve(other.ID)
	if err := sign(t.Context(), tok.Audit(), other); !errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("Sign for the audit log with a reserved signing key: %v, want ErrNotFound", err)
	}
}

// TestAuditKeyDestroyed destroys an audit key that nobody reserved, as the gateway does after an
// interrupted start: both halves are gone.
func TestAuditKeyDestroyed(t *testing.T) {
	soft, _ := newSoftHSM(t)
	tok := open(t, config(soft))
	own := generate(t, tok.Audit(), hsm.EC_P256)
	if err := tok.Close(); err != nil {
		t.Fatal(err)
	}
	tok = open(t, config(soft))
	if err := tok.Destroy(t.Context(), own); err != nil {
		t.Fatal(err)
	}
	p11, s := rawSession(t, soft.Module)
	if left := findObjects(t, p11, s, pkcs11.NewAttribute(pkcs11.CKA_ID, slices.Clone(own.ID))); len(left) != 0 {
		t.Errorf("%d objects are left of the audit key, want 0", len(left))
	}
}
