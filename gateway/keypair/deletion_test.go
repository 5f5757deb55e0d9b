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

// TestDueKeys deletes a key at its DeleteDate and not before, with its pair and with an
// audit line; other keys stay.
func TestDueKeys(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	due, version := b.newKey(pendingDeletion(day.Add(time.Hour)))
	b.newKey(pendingDeletion(day.Add(2 * time.Hour)))
	b.newKey(func(k *store.Key) { k.KeyState, k.DeleteDate = store.Disabled, day }) // cancelled, however that came about
	b.update(func(tx *store.Tx) error {
		return tx.Aliases().Put(store.Alias{AliasName: "alias/due", KeyId: due.KeyId})
	})
	b.clock.set(day.Add(time.Hour - time.Nanosecond))
	b.CarryOutDeletions(t.Context())
	b.checkAgreement(0, 0)
	if n := b.db.Now().Keys().Len(); n != 3 || len(b.lines()) != 0 {
		t.Fatalf("before the time there are %d keys, and the lines %+v", n, b.lines())
	}
	b.clock.set(day.Add(time.Hour))
	b.CarryOutDeletions(t.Context())
	b.checkAgreement(0, 0)
	records := b.db.Now()
	if records.Keys().Has(due.KeyId) || records.Aliases().Len() != 0 || records.Keys().Len() != 2 || b.backend.Len() != 2 {
		t.Errorf("the key that is due: %v; %d keys, %d aliases, %d pairs", records.Keys().Has(due.KeyId), records.Keys().Len(), records.Aliases().Len(), b.backend.Len())
	}
	if err := b.backend.Has(version.Key); !errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("its pair: %v", err)
	}
	lines := b.lines()
	if len(lines) != 1 || lines[0].Action != "DeleteKey" || lines[0].KeyId != due.KeyId || lines[0].Principal != keypair.OwnName || lines[0].Status != 200 || !lines[0].Time.Equal(b.clock.Now()) {
		t.Errorf("the lines are %+v", lines)
	}
}

// TestDestructionIsTriedAgain: the key is gone at once, and its pair when the token can.
// One pair that the token refuses does not keep others.
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
		t.Errorf("%d lines, want one for each key", len(lines))
	}
}

// TestNothingWithoutLog: while the log cannot be written nothing is deleted or
// destroyed. A deletion during which the log fails is carried out no further than its
// records, until its line is there.
func TestNothingWithoutLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		due, _ := b.newKey(pendingDeletion(day))
		away := b.logPath() + ".away"
		if err := os.Rename(b.logPath(), away); err != nil {
			t.Fatal(err)
		}
		b.CarryOutDeletions(t.Context()) // the log fails at its line
		b.checkAgreement(1, 1)
		if b.db.Now().Keys().Has(due.KeyId) || !b.journal.Pending() {
			t.Errorf("the key is there: %v; its line is pending: %v", b.db.Now().Keys().Has(due.KeyId), b.journal.Pending())
		}
		another, _ := b.newKey(pendingDeletion(day))
		for range 2 {
			b.CarryOutDeletions(t.Context()) // the log is known to fail
			b.checkAgreement(1, 1)
		}
		if err := os.Rename(away, b.logPath()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second) // the log tries again every second
		if err := b.log.Err(); err != nil {
			t.Fatal(err)
		}
		b.CarryOutDeletions(t.Context()) // a line is pending still
		b.checkAgreement(1, 1)
		if !b.db.Now().Keys().Has(another.KeyId) || len(b.lines()) != 0 {
			t.Errorf("before the pending line: the next key is there: %v, lines %+v", b.db.Now().Keys().Has(another.KeyId), b.lines())
		}
		b.journal.Flush()
		b.CarryOutDeletions(t.Context())
		b.checkAgreement(0, 0)
		lines := b.lines()
		if len(lines) != 2 || !lines[0].Late || lines[0].KeyId != due.KeyId || lines[1].Late || lines[1].KeyId != another.KeyId {
			t.Errorf("the lines are %+v", lines)
		}
	})
}

// TestOrphansWithoutLog: an orphan is left alone while the log is known to fail, with no
// line pending.
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

// TestKeepDueKeys cancels what DeleteDueKeys would carry out, and no more, each with a
// line.
func TestKeepDueKeys(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	due, _ := b.newKey(pendingDeletion(day))
	later, _ := b.newKey(pendingDeletion(day.Add(time.Second)))
	if err := keypair.KeepDueKeys(b.db, b.log, "local:1000", b.clock.Now, quiet); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]store.Key{due.KeyId: {KeyState: store.Enabled}, later.KeyId: {KeyState: store.PendingDeletion, DeleteDate: later.DeleteDate}} {
		if k, err := b.db.Now().Keys().Get(id); err != nil || k.KeyState != want.KeyState || !k.DeleteDate.Equal(want.DeleteDate) {
			t.Errorf("%+v, %v, want %+v", k, err, want)
		}
	}
	lines := b.lines()
	if len(lines) != 1 || lines[0].Action != "CancelKeyDeletion" || lines[0].KeyId != due.KeyId || lines[0].Principal != "local:1000" {
		t.Errorf("the lines are %+v", lines)
	}
	if n := b.db.Now().Outbox().Len(); n != 0 {
		t.Errorf("the outbox has %d records", n)
	}
	b.CarryOutDeletions(t.Context())
	b.checkAgreement(0, 0)
	if n := b.db.Now().Keys().Len(); n != 2 {
		t.Errorf("%d keys", n)
	}
	if err := b.log.Close(); err != nil {
		t.Fatal(err)
	}
	b.clock.set(later.DeleteDate)
	if err := keypair.KeepDueKeys(b.db, b.log, "local:1000", b.clock.Now, quiet); err == nil {
		t.Error("a key was kept without a line, and nobody is told")
	}
}

// TestFreeze: while key pairs are frozen none is made or destroyed, and no record of one
// is written; a freeze waits for what is on its way. Signing goes on.
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
		b.CarryOutDeletions(ctx) // gives up
		cancel()
		b.checkAgreement(1, 1)
		if err := hsm.SelfTest(t.Context(), b.backend, version.Key); err != nil {
			t.Error(err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		if err := b.Enter(ctx); !errors.Is(err, kms.ErrUnavailable) {
			t.Errorf("Enter during a freeze: %v", err)
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
			t.Error("frozen while a pair is being made")
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
		if _, err := b.Freeze(t.Context()); !errors.Is(err, kms.ErrUnavailable) { // it waits for so long only
			t.Errorf("a freeze while somebody stays inside: %v", err)
		}
		b.Leave()
	})
}

// TestOwners names the record of every pair; of an object that no record speaks of it
// says what it can be.
func TestOwners(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	k, v := b.newKey(nil)
	auditKey, err := b.backend.Fake.Generate(t.Context(), hsm.EC_P256, []byte("audit key 123456"))
	if err != nil {
		t.Fatal(err)
	}
	b.update(func(tx *store.Tx) error {
		return errors.Join(tx.SetAuditKey(auditKey), tx.Aliases().Put(store.Alias{AliasName: "alias/a", KeyId: k.KeyId}),
			tx.Orphans().Put(store.Orphan{KeyVersionId: "o", Key: hsm.Key{ID: []byte("orphan")}}))
	})
	owners := keypair.Owners(b.db.Now())
	if len(owners) != 3 {
		t.Errorf("%d owners: %+v", len(owners), owners)
	}
	for name, tc := range map[string]struct {
		object hsm.Object
		making bool
		want   kms.Owner
	}{
		"version":                {object: hsm.Object{ID: v.Key.ID, Ours: true}, want: kms.Owner{Use: kms.UseVersion, KeyId: k.KeyId, KeyVersionId: v.KeyVersionId, KeyState: store.Enabled}},
		"the audit key":          {object: hsm.Object{ID: auditKey.ID, Ours: true}, want: kms.Owner{Use: kms.UseAudit}},
		"orphan":                 {object: hsm.Object{ID: []byte("orphan"), Ours: true}, want: kms.Owner{Use: kms.UseOrphan, KeyVersionId: "o"}},
		"another's with its id":  {object: hsm.Object{ID: v.Key.ID}, want: kms.Owner{Use: kms.UseAnothers}},
		"the sealing key":        {object: hsm.Object{Ours: true, Purpose: hsm.PurposeSealing}, want: kms.Owner{Use: kms.UseSealing}},
		"the canary":             {object: hsm.Object{Ours: true, Purpose: hsm.PurposeCanary, ID: v.Key.ID}, want: kms.Owner{Use: kms.UseCanary}},
		"without an id":          {object: hsm.Object{Ours: true}, want: kms.Owner{Use: kms.UseStray}},
		"the same while making":  {object: hsm.Object{Ours: true}, making: true, want: kms.Owner{Use: kms.UseOrphan}},
		"with an id, and making": {object: hsm.Object{Ours: true, ID: []byte("unknown")}, making: true, want: kms.Owner{Use: kms.UseStray}},
	} {
		if tc.object.Purpose == "" {
			tc.object.Purpose = hsm.PurposeKey
		}
		got := keypair.OwnerOf(tc.object, owners, tc.making).Owner
		wantAliases := 0
		if tc.want.Use == kms.UseVersion {
			wantAliases = 1
		}
		if got.Use != tc.want.Use || got.KeyId != tc.want.KeyId || got.KeyVersionId != tc.want.KeyVersionId || got.KeyState != tc.want.KeyState || len(got.Aliases.Alias) != wantAliases {
			t.Errorf("%s: %+v, want %+v", name, got, tc.want)
		}
	}
}
