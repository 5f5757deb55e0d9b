package hsmtest

import (
	"errors"
	"testing"

	"github.com/kmsgate/kmsgate/hsm"
)

// TestAuditKeeper tests the contract of an hsm.AuditKeeper. It makes EC_P256 keys in the token and
// destroys them. The token must not have an audit key.
func TestAuditKeeper(t *testing.T, token interface {
	hsm.Backend
	hsm.AuditKeeper
}) {
	t.Helper()
	users, audit := hsm.NewRoute(token, nil), hsm.NewRoute(token.Audit(), nil)
	generate := func(b hsm.Backend) hsm.Key {
		t.Helper()
		k, err := b.Generate(t.Context(), hsm.EC_P256, newID())
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	// expect checks that only one of the two backends has a key and signs with it.
	expect := func(moment string, k hsm.Key, signs, lacks hsm.Backend) {
		t.Helper()
		if err := errors.Join(hsm.SelfTest(t.Context(), signs, k), signs.Has(k)); err != nil {
			t.Errorf("%s: %v", moment, err)
		}
		if err := hsm.SelfTest(t.Context(), lacks, k); !errors.Is(err, hsm.ErrNotFound) {
			t.Errorf("%s: Sign of the other backend: %v, want ErrNotFound", moment, err)
		}
		if err := lacks.Has(k); !errors.Is(err, hsm.ErrNotFound) {
			t.Errorf("%s: Has of the other backend: %v, want ErrNotFound", moment, err)
		}
	}
	expectKept := func(k hsm.Key) {
		t.Helper()
		for _, b := range []hsm.Backend{users, audit} {
			if err := b.Destroy(t.Context(), k); !errors.Is(err, hsm.ErrReserved) {
				t.Errorf("Destroy of a reserved key: %v, want ErrReserved", err)
			}
		}
	}
	early := generate(users) // as an earlier version made the audit log's key
	expect("a signing key", early, users, audit)
	token.Reserve(early.ID)
	expect("a reserved signing key", early, audit, users)
	expectKept(early)

	own, other := generate(audit), generate(users)
	expect("an audit key that is not reserved", own, audit, users)
	token.Reserve(own.ID)
	expect("an audit key", own, audit, users)
	expect("a signing key that is no longer reserved", early, users, audit)
	expect("another signing key", other, users, audit)
	expectKept(own)
	forged := other
	forged.ID = own.ID
	if err := hsm.SelfTest(t.Context(), users, forged); !errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("a record with the audit key's id: %v, want ErrNotFound", err)
	}
	token.Reserve(newID())
	for _, k := range []hsm.Key{early, own, other} {
		if err := users.Destroy(t.Context(), k); err != nil {
			t.Errorf("Destroy: %v", err)
		}
	}
	if err := audit.Has(own); !errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("Has of a destroyed audit key: %v, want ErrNotFound", err)
	}
}
