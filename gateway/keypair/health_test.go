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

func (b *bench) checkHealth(when string, missing, failing int) {
	b.t.Helper()
	if m, f := b.Health(); m != missing || f != failing {
		b.t.Errorf("%s: %d missing, %d failing, want %d and %d", when, m, f, missing, failing)
	}
}

// TestHealth finds versions whose private keys are missing, and those that sign with
// another's, and what becomes of them.
func TestHealth(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.newKey(nil)
		_, lost := b.newKey(nil)
		k, swapped := b.newKey(nil)
		_, with := b.newKey(nil)
		putBack := b.backend.Lose(lost.Key)
		b.backend.Swap(swapped.Key, with.Key)
		b.run(t)
		time.Sleep(time.Minute)
		b.checkHealth("at first", 1, 3)
		putBack()
		b.Tested(lost.KeyVersionId, nil)
		b.checkHealth("after a signature of the one that was put back", 1, 2)
		time.Sleep(time.Hour)
		b.checkHealth("after an hour", 0, 2)
		b.Tested(with.KeyVersionId, hsm.ErrUnavailable) // that says nothing about it
		b.Tested(lost.KeyVersionId, hsm.ErrBusy)
		b.checkHealth("after a fault of the token", 0, 2)
		b.Tested(lost.KeyVersionId, hsm.ErrRefused)
		b.checkHealth("after a refusal", 0, 3)
		b.update(func(tx *store.Tx) error { return tx.Keys().Delete(k.KeyId) })
		time.Sleep(time.Hour)
		b.checkHealth("after a deletion", 0, 2)
	})
}

// TestHealthWithoutToken: a token that is away says nothing about its keys, and they are
// looked at as soon as it is back.
func TestHealthWithoutToken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		_, swapped := b.newKey(nil)
		_, with := b.newKey(nil)
		b.backend.Swap(swapped.Key, with.Key)
		b.backend.Fail(hsm.ErrUnavailable)
		b.run(t)
		time.Sleep(time.Hour)
		b.checkHealth("while it is away", 0, 0)
		b.backend.Fail(nil)
		time.Sleep(time.Minute)
		b.checkHealth("when it is back", 0, 2)
	})
}

// TestRun carries deletions out when they are due, and ends with its context, also while
// the token hangs.
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
			t.Errorf("%d pairs", n)
		}
		b.newKey(pendingDeletion(day))
		b.backend.Fail(hsmtest.ErrHang)
		time.Sleep(time.Minute)
	})
}

// TestTimes gives one time for each signature, in order, and ends at the first that is
// wrong.
func TestTimes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, v := b.newKey(nil)
	_, other := b.newKey(nil)
	if times, err := b.Test(t.Context(), v.Key, 5); err != nil || len(times) != 5 || times[0] > times[4] {
		t.Errorf("%v, %v", times, err)
	}
	b.backend.Swap(v.Key, other.Key)
	if times, err := b.Test(t.Context(), v.Key, 5); err == nil {
		t.Errorf("signatures of another key: %v", times)
	}
}
