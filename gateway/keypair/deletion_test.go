package keypair_test

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/gateway/keypair"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// TestDueKeys checks that a key and its pair are deleted at its DeleteDate and not before, with an
// audit line. Other keys must stay.
func TestDueKeys(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	due, version := b.newKey(pendingDeletion(day.Add(time.Hour)))
	b.newKey(pendingDeletion(day.Add(2 * time.Hour)))
	b.newKey(func(k *store.Key) { k.KeyState, k.DeleteDate = store.Disabled, day }) // its deletion was cancelled
	b.update(func(tx *store.Tx) error {
		return tx.Aliases().Put(store.Alias{AliasName: "alias/due", KeyId: due.KeyId})
	})
	b.clock.set(day.Add(time.Hour - time.Nanosecond))
	b.CarryOutDeletions(t.Context())
	b.checkAgreement(0, 0)
	if n := b.db.Now().Keys().Len(); n != 3 || len(b.lines()) != 0 {
		t.Fatalf("before the DeleteDate: %d keys and lines %+v, want 3 keys and no lines", n, b.lines())
	}
	b.clock.set(day.Add(time.Hour))
	b.CarryOutDeletions(t.Context())
	b.checkAgreement(0, 0)
	records := b.db.Now()
	if records.Keys().Has(due.KeyId) {
		t.Error("the key that is due is still recorded")
	}
	keys, aliases, pairs := records.Keys().Len(), records.Aliases().Len(), b.backend.Len()
	if keys != 2 || aliases != 0 || pairs != 2 {
		t.Errorf("%d keys, %d aliases and %d pairs, want 2, 0 and 2", keys, aliases, pairs)
	}
	if err := b.backend.Has(version.Key); !errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("the pair of the deleted key: %v, want %v", err, hsm.ErrNotFound)
	}
	lines := b.lines()
	if len(lines) != 1 || lines[0].Action != "DeleteKey" || lines[0].KeyId != due.KeyId ||
		lines[0].Principal != keypair.GatewayPrincipal || lines[0].Status != 200 ||
		!lines[0].Time.Equal(b.clock.Now()) {
		t.Errorf("audit lines %+v, want one DeleteKey of %q by %s at %v", lines, due.KeyId, keypair.GatewayPrincipal,
			b.clock.Now())
	}
}

// TestDestructionIsTriedAgain checks that keys are deleted at once, and their pairs as soon as the
// token destroys them.
func TestDestructionIsTriedAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.newKey(pendingDeletion(day))
	b.newKey(pendingDeletion(day))
	b.backend.FailDestroy(hsm.ErrUnavailable)
	for range 2 {
		b.CarryOutDeletions(t.Context())
		b.checkAgreement(2, 2)
	}
	b.backend.FailDestroy(nil)
	b.CarryOutDeletions(t.Context())
	b.checkAgreement(0, 0)
	if lines := b.lines(); len(lines) != 2 {
		t.Errorf("%d audit lines, want 2: one for each key", len(lines))
	}
}

// TestNothingWithoutLog checks that nothing is deleted or destroyed while the audit log cannot be
// written. If the log fails during a deletion, the records are deleted, but the pairs stay until
// the deletion's line is in the log.
func TestNothingWithoutLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		due, _ := b.newKey(pendingDeletion(day))
		away := b.logPath() + ".away"
		if err := os.Rename(b.logPath(), away); err != nil {
			t.Fatal(err)
		}
		b.CarryOutDeletions(t.Context()) // the log fails at the line of this deletion
		b.checkAgreement(1, 1)
		if b.db.Now().Keys().Has(due.KeyId) {
			t.Error("the key that is due is still recorded")
		}
		if !b.journal.Pending() {
			t.Error("the audit line of the deletion is not pending")
		}
		another, _ := b.newKey(pendingDeletion(day))
		for range 2 {
			b.CarryOutDeletions(t.Context()) // the log has reported its failure
			b.checkAgreement(1, 1)
		}
		if err := os.Rename(away, b.logPath()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second) // the log tries again every second
		if err := b.log.Err(); err != nil {
			t.Fatal(err)
		}
		b.CarryOutDeletions(t.Context()) // a line is still pending
		b.checkAgreement(1, 1)
		if !b.db.Now().Keys().Has(another.KeyId) {
			t.Error("the next key was deleted before the pending line was written")
		}
		if lines := b.lines(); len(lines) != 0 {
			t.Errorf("audit lines before Flush: %+v, want none", lines)
		}
		b.journal.Flush()
		b.CarryOutDeletions(t.Context())
		b.checkAgreement(0, 0)
		lines := b.lines()
		if len(lines) != 2 || !lines[0].Late || lines[0].KeyId != due.KeyId ||
			lines[1].Late || lines[1].KeyId != another.KeyId {
			t.Errorf("audit lines %+v, want a late one of %q, then one of %q", lines, due.KeyId, another.KeyId)
		}
	})
}

// TestOrphansWithoutLog checks that an orphan is not destroyed while the audit log is known to
// fail, even if no line is pending.
func TestOrphansWithoutLog(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.newOrphan()
	b.failLog()
	b.CarryOutDeletions(t.Context())
	b.checkAgreement(1, 1)
}

// TestLogFailsBetweenOrphans makes the audit log fail while CarryOutDeletions destroys the first
// of three orphans. It must not destroy the others.
func TestLogFailsBetweenOrphans(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for range 3 {
		b.newOrphan()
	}
	b.checkAgreement(3, 3)
	b.backend.destroyed = sync.OnceFunc(b.failLog)
	b.CarryOutDeletions(t.Context())
	b.checkAgreement(2, 2)
}

// TestKeepDueKeys checks that KeepDueKeys cancels the deletions that are due, and no others, with
// an audit line for each.
func TestKeepDueKeys(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	due, _ := b.newKey(pendingDeletion(day))
	later, _ := b.newKey(pendingDeletion(day.Add(time.Second)))
	if err := keypair.KeepDueKeys(b.db, b.log, "local:1000", b.clock.Now, quiet); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]store.Key{
		due.KeyId:   {KeyState: store.Enabled},
		later.KeyId: {KeyState: store.PendingDeletion, DeleteDate: later.DeleteDate},
	} {
		k, err := b.db.Now().Keys().Get(id)
		if err != nil || k.KeyState != want.KeyState || !k.DeleteDate.Equal(want.DeleteDate) {
			t.Errorf("%+v, %v, want the KeyState and DeleteDate of %+v", k, err, want)
		}
	}
	lines := b.lines()
	if len(lines) != 1 || lines[0].Action != "CancelKeyDeletion" || lines[0].KeyId != due.KeyId ||
		lines[0].Principal != "local:1000" {
		t.Errorf("audit lines %+v, want one CancelKeyDeletion of %q by local:1000", lines, due.KeyId)
	}
	if n := b.db.Now().Outbox().Len(); n != 0 {
		t.Errorf("records in the outbox: %d, want 0", n)
	}
	b.CarryOutDeletions(t.Context())
	b.checkAgreement(0, 0)
	if n := b.db.Now().Keys().Len(); n != 2 {
		t.Errorf("%d keys, want 2", n)
	}
	if err := b.log.Close(); err != nil {
		t.Fatal(err)
	}
	b.clock.set(later.DeleteDate)
	if err := keypair.KeepDueKeys(b.db, b.log, "local:1000", b.clock.Now, quiet); err == nil {
		t.Error("KeepDueKeys with a closed log: no error, want one")
	}
}

// TestFreeze checks that no key pair is made, destroyed or recorded while key pairs are frozen, and
// that keys continue to sign. A freeze waits for pairs that are being made.
func TestFreeze(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		_, version := b.newKey(nil)
		b.newKey(pendingDeletion(day))
		thaw, err := b.Freeze(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		created := make(chan error, 1)
		go func() {
			_, err := b.create(key(hsm.EC_P256), recorder{})
			created <- err
		}()
		synctest.Wait()
		b.checkAgreement(0, 0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		b.CarryOutDeletions(ctx) // returns when ctx ends
		cancel()
		b.checkAgreement(1, 1)
		if err := hsm.SelfTest(t.Context(), b.backend, version.Key); err != nil {
			t.Errorf("signing during a freeze: %v, want no error", err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		if err := b.Enter(ctx); !errors.Is(err, kms.ErrUnavailable) {
			t.Errorf("Enter during a freeze: %v, want %v", err, kms.ErrUnavailable)
		}
		cancel()
		thaw()
		if err := <-created; err != nil {
			t.Fatal(err)
		}
		b.CarryOutDeletions(t.Context())
		b.checkAgreement(0, 0)

		making := make(chan struct{})
		b.backend.generated = func() error { <-making; return nil }
		go func() {
			_, err := b.create(key(hsm.EC_P256), recorder{})
			created <- err
		}()
		synctest.Wait()
		frozen := make(chan func())
		go func() {
			thaw, err := b.Freeze(t.Context())
			if err != nil {
				t.Error(err)
			}
			frozen <- thaw
		}()
		synctest.Wait()
		select {
		case <-frozen:
			t.Error("Freeze returned while a pair was being made")
		default:
		}
		close(making)
		if err := <-created; err != nil {
			t.Error(err)
		}
		thaw = <-frozen
		b.checkAgreement(0, 0)
		thaw()
		if err := b.Enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Freeze(t.Context()); !errors.Is(err, kms.ErrUnavailable) {
			t.Errorf("Freeze while a caller stays inside: %v, want %v after a time limit", err, kms.ErrUnavailable)
		}
		b.Exit()
	})
}

// TestOwners checks that OwnerOf names the record of every pair, and the possible use of an object
// without a record.
func TestOwners(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	k, v := b.newKey(nil)
	auditKey, err := b.backend.Fake.Generate(t.Context(), hsm.EC_P256, []byte("audit key 123456"))
	if err != nil {
		t.Fatal(err)
	}
	b.update(func(tx *store.Tx) error {
		return errors.Join(tx.SetAuditKey(auditKey),
			tx.Aliases().Put(store.Alias{AliasName: "alias/a", KeyId: k.KeyId}),
			tx.Orphans().Put(store.Orphan{KeyVersionId: "o", Key: hsm.Key{ID: []byte("orphan")}}))
	})
	owners := keypair.Owners(b.db.Now())
	if len(owners) != 3 {
		t.Errorf("%d owners, want 3: %+v", len(owners), owners)
	}
	for name, tc := range map[string]struct {
		object hsm.Object
		making bool
		want   kms.Owner
	}{
		"version": {
			object: hsm.Object{ID: v.Key.ID, Ours: true},
			want: kms.Owner{
				Use: kms.UseVersion, KeyId: k.KeyId, KeyVersionId: v.KeyVersionId, KeyState: store.Enabled,
			}},
		"audit key": {
			object: hsm.Object{ID: auditKey.ID, Ours: true},
			want:   kms.Owner{Use: kms.UseAudit}},
		"audit key with its purpose": {
			object: hsm.Object{ID: auditKey.ID, Ours: true, Purpose: hsm.PurposeAudit},
			want:   kms.Owner{Use: kms.UseAudit}},
		"an audit key that is being made": {
			object: hsm.Object{ID: []byte("orphan"), Ours: true, Purpose: hsm.PurposeAudit},
			want:   kms.Owner{Use: kms.UseOrphan, KeyVersionId: "o"}},
		"a version's id with the audit key's purpose": {
			object: hsm.Object{ID: v.Key.ID, Ours: true, Purpose: hsm.PurposeAudit},
			want:   kms.Owner{Use: kms.UseStray}},
		"counter": {
			object: hsm.Object{Ours: true, Class: hsm.ClassData, Purpose: hsm.PurposeCounter},
			want:   kms.Owner{Use: kms.UseCounter}},
		"orphan": {
			object: hsm.Object{ID: []byte("orphan"), Ours: true},
			want:   kms.Owner{Use: kms.UseOrphan, KeyVersionId: "o"}},
		"a version's id without our label": {
			object: hsm.Object{ID: v.Key.ID},
			want:   kms.Owner{Use: kms.UseAnothers}},
		"sealing key": {
			object: hsm.Object{Ours: true, Purpose: hsm.PurposeSealing},
			want:   kms.Owner{Use: kms.UseSealing}},
		"canary": {
			object: hsm.Object{Ours: true, Purpose: hsm.PurposeCanary, ID: v.Key.ID},
			want:   kms.Owner{Use: kms.UseCanary}},
		"no id": {
			object: hsm.Object{Ours: true},
			want:   kms.Owner{Use: kms.UseStray}},
		"no id while making": {
			object: hsm.Object{Ours: true}, making: true,
			want: kms.Owner{Use: kms.UseOrphan}},
		"unknown id while making": {
			object: hsm.Object{Ours: true, ID: []byte("unknown")}, making: true,
			want: kms.Owner{Use: kms.UseStray}},
	} {
		if tc.object.Purpose == "" {
			tc.object.Purpose = hsm.PurposeKey
		}
		got := keypair.OwnerOf(tc.object, owners, tc.making).Owner
		wantAliases := 0
		if tc.want.Use == kms.UseVersion {
			wantAliases = 1
		}
		if got.Use != tc.want.Use || got.KeyId != tc.want.KeyId || got.KeyVersionId != tc.want.KeyVersionId ||
			got.KeyState != tc.want.KeyState || len(got.Aliases.Alias) != wantAliases {
			t.Errorf("%s: %+v, want %+v with %d aliases", name, got, tc.want, wantAliases)
		}
	}
}
