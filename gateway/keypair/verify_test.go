package keypair_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/keypair"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/store"
)

// newCredentials makes the audit key, an access key and a client key of an instance.
func (b *bench) newCredentials() (auditKey hsm.Key) {
	b.t.Helper()
	auditKey, err := b.backend.Fake.Generate(b.t.Context(), hsm.EC_P256, []byte("audit key 123456"))
	if err != nil {
		b.t.Fatal(err)
	}
	access := store.AccessKey{AccessKeyId: "AK1", UserName: "u"}
	client := store.ClientKey{ClientKeyId: "KAAP.1", AapName: "app"}
	err = errors.Join(identity.SealAccessKey(b.t.Context(), b.backend, &access, "secret"), identity.SealClientKey(b.t.Context(), b.backend, &client))
	if err != nil {
		b.t.Fatal(err)
	}
	b.update(func(tx *store.Tx) error {
		return errors.Join(tx.SetAuditKey(auditKey), tx.AccessKeys().Put(access), tx.ClientKeys().Put(client))
	})
	return auditKey
}

// TestMatchesToken tells another instance's token from this one's, and neither from one
// that is away.
func TestMatchesToken(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	auditKey := b.newCredentials()
	_, software := b.newKey(nil)
	software.Key.Sealed = []byte("sealed")
	b.update(func(tx *store.Tx) error { return tx.Versions().Put(software) })
	matches := func() error { return keypair.MatchesToken(t.Context(), b.db, b.backend, b.backend) }
	if err := matches(); err != nil {
		t.Fatal(err)
	}
	if err := keypair.MatchesToken(t.Context(), b.db, new(hsmtest.Fake), b.backend); !errors.Is(err, keypair.ErrForeignToken) {
		t.Errorf("another token: %v", err)
	}
	putBack := b.backend.Lose(software.Key)
	if err := matches(); !errors.Is(err, keypair.ErrForeignToken) || !strings.Contains(err.Error(), "software keys") {
		t.Errorf("a token that does not unseal the software keys: %v", err)
	}
	putBack()
	_, other := b.newKey(nil)
	b.backend.Swap(auditKey, other.Key)
	if err := matches(); !errors.Is(err, keypair.ErrForeignToken) || !strings.Contains(err.Error(), "audit log's key") {
		t.Errorf("a token with another audit key: %v", err)
	}
	b.backend.Swap(auditKey, other.Key)
	for _, away := range []error{hsm.ErrUnavailable, hsm.ErrBusy, hsm.ErrRefused} {
		b.backend.Fail(away)
		if err := matches(); !errors.Is(err, away) || errors.Is(err, keypair.ErrForeignToken) {
			t.Errorf("with %v: %v", away, err)
		}
	}
	b.backend.Fail(nil)
	b.update(func(tx *store.Tx) error {
		a, err := tx.AccessKeys().Get("AK1")
		a.Sealed = []byte("of another token")
		return errors.Join(err, tx.AccessKeys().Put(a))
	})
	if err := matches(); !errors.Is(err, keypair.ErrForeignToken) || !strings.Contains(err.Error(), "access keys") {
		t.Errorf("a token that does not unseal the access keys: %v", err)
	}
}

// TestVerifyAll counts what works and names what does not, whatever a key's state.
func TestVerifyAll(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.newCredentials()
	k, healthy := b.newKey(nil)
	if _, err := b.create(k, recorder{}); err != nil {
		t.Fatal(err)
	}
	b.newKey(func(k *store.Key) { k.KeyState = store.Disabled })
	b.newKey(pendingDeletion(time.Now().Add(-time.Hour)))
	b.newKey(pendingDeletion(time.Now().Add(time.Hour)))
	verify := func() (keypair.Verified, error) {
		return keypair.VerifyAll(t.Context(), b.db, b.backend, b.backend)
	}
	want := keypair.Verified{Keys: 4, Versions: 5, AccessKeys: 1, ClientKeys: 1, Due: 1}
	if got, err := verify(); got != want || err != nil {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	lost, lostVersion := b.newKey(nil)
	b.backend.Lose(lostVersion.Key)
	forged, forgedVersion := b.newKey(nil)
	forgedVersion.Key = healthy.Key // which signs
	_, swapped := b.newKey(nil)
	_, with := b.newKey(nil)
	b.backend.Swap(swapped.Key, with.Key)
	b.update(func(tx *store.Tx) error {
		c, err := tx.ClientKeys().Get("KAAP.1")
		c.NotAfter = day // which it was not sealed with
		a, accessErr := tx.AccessKeys().Get("AK1")
		a.AccessKeyId = "AK2" // which its secret was not sealed for
		return errors.Join(err, accessErr, tx.Versions().Put(forgedVersion), tx.ClientKeys().Put(c), tx.AccessKeys().Put(a))
	})
	before := b.db.Now()
	got, err := verify()
	want.ClientKeys = 0
	if got != want || err == nil {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	for _, id := range []string{lost.KeyId, lostVersion.KeyVersionId, forged.KeyId, swapped.KeyVersionId, with.KeyVersionId, "AK2 of user u", "KAAP.1 of access point app"} {
		if err == nil || !strings.Contains(err.Error(), id) {
			t.Errorf("the error does not name %s: %v", id, err)
		}
	}
	if b.db.Now() != before {
		t.Error("VerifyAll changed records")
	}
	b.backend.Fail(hsm.ErrUnavailable)
	if got, err := verify(); got != (keypair.Verified{}) || !errors.Is(err, hsm.ErrUnavailable) || !strings.Contains(err.Error(), fmt.Sprintf("and %d more", 9+2+1-10)) {
		t.Errorf("without a token: %+v, %v", got, err)
	}
}
