package token_test

import (
	"errors"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/hsm/token"
)

// countCopies counts the private keys that are session objects.
func countCopies(t *testing.T, module string) int {
	t.Helper()
	p11, s := rawSession(t, module)
	defer p11.CloseSession(s)
	return len(findObjects(t, p11, s,
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false)))
}

// destroyElsewhere destroys both halves of a key, as another application could.
func destroyElsewhere(t *testing.T, module string, key hsm.Key) {
	t.Helper()
	p11, s := rawSession(t, module)
	defer p11.CloseSession(s)
	for _, o := range findObjects(t, p11, s,
		pkcs11.NewAttribute(pkcs11.CKA_ID, key.ID), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true)) {
		if err := p11.DestroyObject(s, o); err != nil {
			t.Fatal(err)
		}
	}
}

// signUntil signs until holds returns true.
func signUntil(t *testing.T, tok *token.Token, key hsm.Key, description string, holds func() bool) {
	t.Helper()
	waitFor(t, description, func() bool {
		if err := sign(t.Context(), tok, key); err != nil {
			t.Fatalf("signing until %s: %v", description, err)
		}
		return holds()
	})
}

// TestCopyDropped expects the session copy of a key to be destroyed when the gateway no longer
// uses the key.
func TestCopyDropped(t *testing.T) {
	soft, _ := newSoftHSM(t)
	tok := open(t, config(soft))
	key := generate(t, tok, hsm.EC_P256)
	for _, round := range []string{"first", "second"} {
		signUntil(t, tok, key, "its "+round+" copy exists", func() bool { return countCopies(t, soft.Module) == 1 })
		tok.Forget(key)
		waitFor(t, "the forgotten copy to be destroyed", func() bool { return countCopies(t, soft.Module) == 0 })
	}
	signUntil(t, tok, key, "a copy exists", func() bool { return countCopies(t, soft.Module) == 1 })
	if err := tok.Destroy(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if err := sign(t.Context(), tok, key); !errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("Sign with a destroyed key that had a copy: %v, want ErrNotFound", err)
	}
	waitFor(t, "the destroyed key's copy to be destroyed", func() bool { return countCopies(t, soft.Module) == 0 })
}

// TestCopyOfDeletedKey has another application delete a key that has a session copy.
func TestCopyOfDeletedKey(t *testing.T) {
	soft, _ := newSoftHSM(t)
	cfg := config(soft)
	cfg.RecheckEvery = 20 * time.Millisecond
	tok := open(t, cfg)
	gone, stays := generate(t, tok, hsm.EC_P256), generate(t, tok, hsm.EC_P256K)
	for i, key := range []hsm.Key{gone, stays} {
		signUntil(t, tok, key, "it has a copy", func() bool { return countCopies(t, soft.Module) == i+1 })
	}
	destroyElsewhere(t, soft.Module, gone)
	waitFor(t, "the deleted key's copy to stop signing", func() bool {
		err := sign(t.Context(), tok, gone)
		if err != nil && !errors.Is(err, hsm.ErrNotFound) {
			t.Fatal(err)
		}
		return err != nil
	})
	if err := sign(t.Context(), tok, stays); err != nil {
		t.Errorf("Sign with the other key: %v", err)
	}
	if n := tok.Stats().Losses; n != 0 {
		t.Errorf("the deletion of one key caused %d connection losses, want 0", n)
	}
}

// TestMoreKeysThanCopies signs with more keys than Config.Copies.
func TestMoreKeysThanCopies(t *testing.T) {
	soft, _ := newSoftHSM(t)
	cfg := config(soft)
	cfg.Copies = 2
	tok := open(t, cfg)
	var keys []hsm.Key
	for range 5 {
		keys = append(keys, generate(t, tok, hsm.EC_P256))
	}
	for range 300 { // enough for some keys to request a copy a second time
		for _, key := range keys {
			if err := sign(t.Context(), tok, key); err != nil {
				t.Fatal(err)
			}
		}
	}
	waitFor(t, "two copies", func() bool { return countCopies(t, soft.Module) == 2 })
	for _, key := range keys { // with or without a copy
		tok.Forget(key)
	}
	waitFor(t, "the copies to be destroyed", func() bool { return countCopies(t, soft.Module) == 0 })
}

// TestCopiesMakeRoom signs with more keys than Config.Copies, one after the other. An idle copy
// is replaced, and its key still signs.
func TestCopiesMakeRoom(t *testing.T) {
	f, cfg := newFaulty(t)
	cfg.Copies, cfg.CopyIdle = 2, time.Millisecond
	tok := open(t, cfg)
	var keys []hsm.Key
	for range 5 {
		keys = append(keys, generate(t, tok, hsm.EC_P256))
	}
	for range 3 {
		for _, key := range keys {
			copied := f.Calls("C_CopyObject")
			signUntil(t, tok, key, "it has a copy", func() bool { return f.Calls("C_CopyObject") > copied })
			waitFor(t, "two copies at most", func() bool { return countCopies(t, f.Module) <= 2 })
			expectSigns(t, tok, key)
		}
	}
	if n := tok.Stats().Losses; n != 0 {
		t.Errorf("%d connection losses, want 0", n)
	}
	expectReopened(t, f, tok, cfg, keys...)
}

// TestWithoutCopies turns session copies off. The contract holds and no copy is made, not even
// for the trial at connecting.
func TestWithoutCopies(t *testing.T) {
	f, cfg := newFaulty(t)
	cfg.NoSessionCopies = true
	tok := open(t, cfg)
	hsmtest.TestBackend(t, tok, hsm.RSA_2048, hsm.EC_P256, hsm.EC_P256K)
	key := generate(t, tok, hsm.EC_P256)
	for range 50 {
		expectSigns(t, tok, key)
	}
	survey, err := tok.Survey(t.Context())
	if err != nil || survey.Copies || tok.Stats().Copies {
		t.Errorf("Copies is %v in Survey and %v in Stats, %v; want false", survey.Copies, tok.Stats().Copies, err)
	}
	f.CloseSessions()
	expectSigns(t, tok, key)
	if n := f.Calls("C_CopyObject"); n != 0 || countCopies(t, f.Module) != 0 {
		t.Errorf("%d copies were made and %d exist, want none", n, countCopies(t, f.Module))
	}
	negative := cfg
	negative.Copies = -1
	if _, err := token.Open(negative); err == nil {
		t.Error("Open accepted a negative number of copies")
	}
	expectReopened(t, f, tok, cfg, key)
}
