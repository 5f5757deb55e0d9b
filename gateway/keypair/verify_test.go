package keypair_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/keypair"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/store"
)

// newCredentials makes and records an audit key, an access key and a client key. It returns the
// audit key.
func (b *bench) newCredentials() (auditKey hsm.Key) {
	b.t.Helper()
	auditKey, err := b.backend.Audit().Generate(b.t.Context(), hsm.EC_P256, []byte("audit key 123456"))
	if err != nil {
		b.t.Fatal(err)
	}
	access := store.AccessKey{AccessKeyId: "AK1", UserName: "u"}
	client := store.ClientKey{ClientKeyId: "KAAP.1", AapName: "app"}
	err = errors.Join(
		identity.SealAccessKey(b.t.Context(), b.backend, &access, "secret"),
		identity.SealClientKey(b.t.Context(), b.backend, &client))
	if err != nil {
		b.t.Fatal(err)
	}
	b.update(func(tx *store.Tx) error {
		return errors.Join(tx.SetAuditKey(auditKey), tx.AccessKeys().Put(access), tx.ClientKeys().Put(client))
	})
	return auditKey
}

// TestMatchesToken checks that MatchesToken detects the token of another instance, and does not
// mistake an unavailable token for one.
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
	wantForeign := func(err error, reason string) {
		t.Helper()
		if !errors.Is(err, keypair.ErrForeignToken) || !strings.Contains(err.Error(), reason) {
			t.Errorf("MatchesToken: %v, want %v with %q", err, keypair.ErrForeignToken, reason)
		}
	}
	wantForeign(keypair.MatchesToken(t.Context(), b.db, new(hsmtest.Fake), b.backend), "")
	putBack := b.backend.Lose(software.Key)
	wantForeign(matches(), "software keys")
	putBack()
	_, other := b.newKey(nil)
	b.backend.Swap(auditKey, other.Key)
	wantForeign(matches(), "audit log's key")
	b.backend.Swap(auditKey, other.Key)
	for _, want := range []error{hsm.ErrUnavailable, hsm.ErrBusy, hsm.ErrRefused} {
		b.backend.Fail(want)
		if err := matches(); !errors.Is(err, want) || errors.Is(err, keypair.ErrForeignToken) {
			t.Errorf("MatchesToken: %v, want %v and not %v", err, want, keypair.ErrForeignToken)
		}
	}
	b.backend.Fail(nil)
	b.update(func(tx *store.Tx) error {
		a, err := tx.AccessKeys().Get("AK1")
		a.Sealed = []byte("of another token")
		return errors.Join(err, tx.AccessKeys().Put(a))
	})
	wantForeign(matches(), "access keys")
}

// TestPlantedAuditKey plants the audit log's key in the records of a version and of an orphan. The
// start refuses such records, and names the first of them.
func TestPlantedAuditKey(t *testing.T) {
	t.Parallel()
	for name, plant := range map[string]func(tx *store.Tx, v store.KeyVersion, auditKey hsm.Key) error{
		"both halves": func(tx *store.Tx, v store.KeyVersion, auditKey hsm.Key) error {
			v.KeyVersionId, v.Key = uuid.UUID(auditKey.ID).String(), auditKey
			return tx.Versions().Put(v)
		},
		"its id": func(tx *store.Tx, v store.KeyVersion, auditKey hsm.Key) error {
			v.Key.ID = auditKey.ID
			return tx.Versions().Put(v)
		},
		"its public key": func(tx *store.Tx, v store.KeyVersion, auditKey hsm.Key) error {
			v.Key.Public = auditKey.Public
			return tx.Versions().Put(v)
		},
		"to be destroyed": func(tx *store.Tx, _ store.KeyVersion, auditKey hsm.Key) error {
			return tx.Orphans().Put(store.Orphan{KeyVersionId: "o", Key: hsm.Key{ID: auditKey.ID, Spec: auditKey.Spec}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			auditKey := b.newCredentials()
			_, v := b.newKey(nil)
			if err := keypair.MatchesToken(t.Context(), b.db, b.backend, b.backend); err != nil {
				t.Fatal(err)
			}
			b.update(func(tx *store.Tx) error { return plant(tx, v, auditKey) })
			err := keypair.MatchesToken(t.Context(), b.db, b.backend, b.backend)
			if err == nil || !strings.Contains(err.Error(), "audit log's key") || errors.Is(err, keypair.ErrForeignToken) {
				t.Errorf("MatchesToken: %v, want an error about the audit log's key", err)
			}
			for _, v := range b.versions() {
				err := hsm.SelfTest(t.Context(), b.backend, v.Key)
				if wrong := string(v.Key.ID) == string(auditKey.ID); wrong && !errors.Is(err, hsm.ErrNotFound) {
					t.Errorf("signing with the planted record: %v, want ErrNotFound", err)
				}
			}
		})
	}
}

// TestVerifyAll checks that VerifyAll counts the records that work and names those that do not,
// whatever the state of a key.
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
		t.Errorf("VerifyAll: %+v, %v, want %+v", got, err, want)
	}
	lost, lostVersion := b.newKey(nil)
	b.backend.Lose(lostVersion.Key)
	forged, forgedVersion := b.newKey(nil)
	forgedVersion.Key = healthy.Key // signs, but is another version's
	_, swapped := b.newKey(nil)
	_, partner := b.newKey(nil)
	b.backend.Swap(swapped.Key, partner.Key)
	b.update(func(tx *store.Tx) error {
		c, err := tx.ClientKeys().Get("KAAP.1")
		c.NotAfter = day // the record was sealed with another NotAfter
		a, accessErr := tx.AccessKeys().Get("AK1")
		a.AccessKeyId = "AK2" // the secret was sealed for AK1
		return errors.Join(err, accessErr,
			tx.Versions().Put(forgedVersion), tx.ClientKeys().Put(c), tx.AccessKeys().Put(a))
	})
	before := b.db.Now()
	got, err := verify()
	want.ClientKeys = 0
	if got != want || err == nil {
		t.Errorf("VerifyAll with failures: %+v, %v, want %+v and an error", got, err, want)
	}
	for _, name := range []string{
		lost.KeyId, lostVersion.KeyVersionId, forged.KeyId, swapped.KeyVersionId, partner.KeyVersionId,
		`"AK2" of user "u"`, `"KAAP.1" of access point "app"`,
	} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("VerifyAll: %v, want an error that names %s", err, name)
		}
	}
	if b.db.Now() != before {
		t.Error("VerifyAll changed records")
	}
	b.backend.Fail(hsm.ErrUnavailable)
	got, err = verify()
	more := fmt.Sprintf("and %d more failures", 9+2+1-10)
	if got != (keypair.Verified{}) || !errors.Is(err, hsm.ErrUnavailable) || !strings.Contains(err.Error(), more) {
		t.Errorf("VerifyAll without a token: %+v, %v, want no successes and %v %s", got, err, hsm.ErrUnavailable, more)
	}
}
