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

// countCopies counts the private keys that are in the process only.
func countCopies(t *testing.T, module string) int {
	t.Helper()
	p11, s := rawSession(t, module)
	defer p11.CloseSession(s)
	return len(findObjects(t, p11, s, pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false)))
}

// destroyElsewhere destroys both halves of a key as somebody else could.
func destroyElsewhere(t *testing.T, module string, key hsm.Key) {
	t.Helper()
	p11, s := rawSession(t, module)
	defer p11.CloseSession(s)
	for _, o := range findObjects(t, p11, s, pkcs11.NewAttribute(pkcs11.CKA_ID, key.ID), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true)) {
		if err := p11.DestroyObject(s, o); err != nil {
			t.Fatal(err)
		}
	}
}

// signUntil signs until a condition holds.
func signUntil(t *testing.T, tok *token.Token, key hsm.Key, what string, holds func() bool) {
	t.Helper()
	waitFor(t, what, func() bool {
		if err := sign(t.Context(), tok, key); err != nil {
			t.Fatalf("signing until %s: %v", what, err)
		}
		return holds()
	})
}

// TestCopyIsDropped has a key be copied into the session, and expects the copy to
// go when the key is not to be used any more.
func TestCopyIsDropped(t *testing.T) {
	soft, _ := newSoftHSM(t)
	tok := open(t, config(soft))
	key := generate(t, tok, hsm.EC_P256)
	for _, round := range []string{"first", "second"} {
		signUntil(t, tok, key, "its "+round+" copy is there", func() bool { return countCopies(t, soft.Module) == 1 })
		tok.Forget(key)
		waitFor(t, "the forgotten copy to be destroyed", func() bool { return countCopies(t, soft.Module) == 0 })
	}
	signUntil(t, tok, key, "a copy is there", func() bool { return countCopies(t, soft.Module) == 1 })
	if err := tok.Destroy(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if err := sign(t.Context(), tok, key); !errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("Sign with a destroyed key that was copied: %v, want ErrNotFound", err)
	}
	waitFor(t, "the destroyed key's copy to be destroyed", func() bool { return countCopies(t, soft.Module) == 0 })
}

// TestCopyOutlivesNothing deletes a key elsewhere while there is a copy of it.
func TestCopyOutlivesNothing(t *testing.T) {
	soft, _ := newSoftHSM(t)
	cfg := config(soft)
	cfg.RecheckEvery = 20 * time.Millisecond
	tok := open(t, cfg)
	gone, stays := generate(t, tok, hsm.EC_P256), generate(t, tok, hsm.EC_P256K)
	for i, key := range []hsm.Key{gone, stays} {
		signUntil(t, tok, key, "there are copies", func() bool { return countCopies(t, soft.Module) == i+1 })
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
		t.Errorf("the connection was given up %d times for one deleted key", n)
	}
}

// TestMoreKeysThanCopies signs with more keys than there is room for copies.
func TestMoreKeysThanCopies(t *testing.T) {
	soft, _ := newSoftHSM(t)
	cfg := config(soft)
	cfg.Copies = 2
	tok := open(t, cfg)
	var keys []hsm.Key
	for range 5 {
		keys = append(keys, generate(t, tok, hsm.EC_P256))
	}
	for range 300 { // some ask for a copy again
		for _, key := range keys {
			if err := sign(t.Context(), tok, key); err != nil {
				t.Fatal(err)
			}
		}
	}
	waitFor(t, "two copies", func() bool { return countCopies(t, soft.Module) == 2 })
	for _, key := range keys { // one that has a copy, or had one
		tok.Forget(key)
	}
	waitFor(t, "copies to go", func() bool { return countCopies(t, soft.Module) == 0 })
}

// TestCopiesMakeRoom signs with more keys than there is room for copies, one after the
// other: what was not used for a while gives way, and its key signs on.
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
		t.Errorf("the connection was given up %d times", n)
	}
	expectKept(t, f, tok, cfg, keys...)
}

// TestWithoutCopies switches them off: the contract holds, and none is made, not even
// to try whether that is faster.
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
		t.Errorf("Survey says %v and Stats %v, %v; want no copies", survey.Copies, tok.Stats().Copies, err)
	}
	f.CloseSessions()
	expectSigns(t, tok, key)
	if n := f.Calls("C_CopyObject"); n != 0 || countCopies(t, f.Module) != 0 {
		t.Errorf("%d copies were made and %d are there, want none", n, countCopies(t, f.Module))
	}
	negative := cfg
	negative.Copies = -1
	if _, err := token.Open(negative); err == nil {
		t.Error("Open took a negative number of copies")
	}
	expectKept(t, f, tok, cfg, key)
}
