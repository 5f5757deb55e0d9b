package keypair_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/store"
)

// run runs b in the background until the test ends.
func (b *bench) run(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b.Run(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
}

func (b *bench) checkHealth(moment string, missing, failing int) {
	b.t.Helper()
	if m, f := b.Health(); m != missing || f != failing {
		b.t.Errorf("%s: %d missing and %d failing, want %d and %d", moment, m, f, missing, failing)
	}
}

// TestHealth checks that Health counts versions whose private keys are missing and versions that
// sign with another private key, and that it follows later changes.
func TestHealth(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.newKey(nil)
		_, lost := b.newKey(nil)
		k, swapped := b.newKey(nil)
		_, partner := b.newKey(nil)
		putBack := b.backend.Lose(lost.Key)
		b.backend.Swap(swapped.Key, partner.Key)
		b.run(t)
		time.Sleep(time.Minute)
		b.checkHealth("at first", 1, 3)
		putBack()
		b.RecordTest(lost, nil)
		b.checkHealth("after a signature with the restored key", 0, 2)
		time.Sleep(time.Hour)
		b.checkHealth("after an hour", 0, 2)
		b.RecordTest(partner, hsm.ErrUnavailable) // says nothing about the version
		b.RecordTest(lost, hsm.ErrBusy)
		b.checkHealth("after a fault of the token", 0, 2)
		b.RecordTest(lost, hsm.ErrRefused)
		b.checkHealth("after a refusal", 0, 3)
		b.update(func(tx *store.Tx) error { return tx.Keys().Delete(k.KeyId) })
		time.Sleep(time.Hour)
		b.checkHealth("after a deletion", 0, 2)
	})
}

// TestHealthWithoutToken checks that an unavailable token counts for no failures, and that the keys
// are checked as soon as the token is back.
func TestHealthWithoutToken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		_, swapped := b.newKey(nil)
		_, partner := b.newKey(nil)
		b.backend.Swap(swapped.Key, partner.Key)
		b.backend.Fail(hsm.ErrUnavailable)
		b.run(t)
		time.Sleep(time.Hour)
		b.checkHealth("while the token is unavailable", 0, 0)
		b.backend.Fail(nil)
		time.Sleep(time.Minute)
		b.checkHealth("when the token is back", 0, 2)
	})
}

// TestRun checks that Run carries out deletions when they are due, and that it returns when its
// context ends, even while the token hangs.
func TestRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.newKey(pendingDeletion(day.Add(time.Hour)))
		b.run(t)
		synctest.Wait()
		b.checkAgreement(0, 0)
		b.clock.set(day.Add(time.Hour))
		time.Sleep(time.Minute)
		b.checkAgreement(0, 0)
		if n := b.backend.Len(); n != 0 {
			t.Errorf("pairs after the deletion: %d, want 0", n)
		}
		b.newKey(pendingDeletion(day))
		b.backend.Fail(hsmtest.ErrHang)
		time.Sleep(time.Minute)
	})
}

// TestTimes checks that Test returns one time for each signature, shortest first, and fails if a
// signature is wrong.
func TestTimes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, v := b.newKey(nil)
	_, other := b.newKey(nil)
	if times, err := b.Test(t.Context(), v.Key, 5); err != nil || len(times) != 5 || times[0] > times[4] {
		t.Errorf("Test: %v, %v, want 5 times in order", times, err)
	}
	b.backend.Swap(v.Key, other.Key)
	if times, err := b.Test(t.Context(), v.Key, 5); err == nil {
		t.Errorf("Test with another private key: %v, want an error", times)
	}
}
