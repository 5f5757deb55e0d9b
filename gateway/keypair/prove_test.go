package keypair_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/gateway/keypair"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// restart replaces the key pairs by those of a new process.
func (b *bench) restart() { b.Pairs = keypair.New(b.config()) }

// expectProof checks the result of Prove. A nil want means a proof, hsm.ErrUnavailable that nothing
// is known.
func (b *bench) expectProof(moment string, v store.KeyVersion, want error) {
	b.t.Helper()
	err := b.Prove(b.t.Context(), v)
	if !errors.Is(err, want) || want == nil && err != nil || errors.Is(want, hsm.ErrUnavailable) != (err != nil && hsm.IsTransient(err)) {
		b.t.Errorf("%s: Prove returns %v, want %v", moment, err, want)
	}
}

// TestProve asks for proofs of public keys: of a new version, after a restart, while the token is
// away, and of a record whose public key was exchanged.
func TestProve(t *testing.T) { synctest.Test(t, testProve) }

func testProve(t *testing.T) {
	b := newBench(t)
	_, v := b.newKey(nil)
	_, other := b.newKey(nil)
	b.backend.Fail(hsm.ErrUnavailable)
	b.expectProof("a new version without a token", v, nil)
	b.restart()
	b.expectProof("restarted without a token", v, hsm.ErrUnavailable)
	b.backend.Fail(nil)
	b.expectProof("with a token", v, nil)
	b.backend.Fail(hsm.ErrUnavailable)
	b.expectProof("proven earlier", v, nil)

	forged := v
	forged.Key.Public = other.Key.Public
	b.expectProof("another public key without a token", forged, hsm.ErrUnavailable)
	b.backend.Fail(nil)
	b.expectProof("another public key", forged, kms.ErrKeyUnavailable)
	b.backend.Fail(hsm.ErrUnavailable)
	b.expectProof("known to fail, without a token", forged, kms.ErrKeyUnavailable)
	b.expectProof("the right public key of a version known to fail", v, kms.ErrKeyUnavailable)
	b.backend.Fail(nil)
	b.expectProof("known to fail, and tried a moment ago", v, kms.ErrKeyUnavailable)
	time.Sleep(10 * time.Second) // of the bubble
	b.backend.Fail(hsm.ErrUnavailable)
	b.expectProof("known to fail, tried again without a token", v, kms.ErrKeyUnavailable)
	b.backend.Fail(nil)
	b.expectProof("tried again", v, nil)
	b.expectProof("another public key again", forged, kms.ErrKeyUnavailable)
	b.RecordTest(v, nil)
	b.expectProof("after a good test signature", v, nil)
}

// TestProveCancelled asks for a proof for a caller that has left. That says nothing about the version.
func TestProveCancelled(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, v := b.newKey(nil)
	b.restart()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Prove(gone, v); !errors.Is(err, context.Canceled) {
		t.Errorf("Prove for a caller that has left: %v, want %v", err, context.Canceled)
	}
	b.expectProof("for the next caller", v, nil)
}

// TestSigned records the results of clients' signatures.
func TestSigned(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, v := b.newKey(nil)
	b.restart()
	b.backend.Fail(hsm.ErrUnavailable) // no test signature can be made
	for _, step := range []struct {
		name              string
		err, want, proven error
	}{
		{"away", hsm.ErrUnavailable, hsm.ErrUnavailable, hsm.ErrUnavailable},
		{"refused", hsm.ErrRefused, hsm.ErrRefused, hsm.ErrUnavailable},
		{"signed", nil, nil, nil},
		{"missing", hsm.ErrNotFound, kms.ErrKeyUnavailable, kms.ErrKeyUnavailable},
		{"refused, and known to fail", hsm.ErrRefused, kms.ErrKeyUnavailable, kms.ErrKeyUnavailable},
		{"away, and known to fail", hsm.ErrUnavailable, kms.ErrKeyUnavailable, kms.ErrKeyUnavailable},
		{"signed again", nil, nil, nil},
	} {
		if err := b.Signed(v, step.err); !errors.Is(err, step.want) || step.want == nil && err != nil {
			t.Errorf("%s: Signed returns %v, want %v", step.name, err, step.want)
		}
		b.expectProof(step.name, v, step.proven)
	}
	if got := b.LastUsed(v); !got.Equal(day) {
		t.Errorf("LastUsed: %v, want %v", got, day)
	}
}
