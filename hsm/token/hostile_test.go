package token_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest/rig"
	"github.com/kmsgate/kmsgate/hsm/token"
)

// In these tests, the token returns CKR_OK with an invalid answer: another object's handle, an
// impossible length, or a wrong bit. The answer must not destroy another key, let a wrong
// signature through or end the process.

// findPair returns the handles of a key pair in the token. They are valid in all sessions of
// this process.
func findPair(t *testing.T, module string, attribute *pkcs11.Attribute) (public, private uint) {
	t.Helper()
	p11, s := rawSession(t, module)
	defer p11.CloseSession(s)
	half := func(class uint) uint {
		found := findObjects(t, p11, s, attribute,
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true))
		if len(found) != 1 {
			t.Fatalf("%d objects of class %d, want 1", len(found), class)
		}
		return uint(found[0])
	}
	return half(pkcs11.CKO_PUBLIC_KEY), half(pkcs11.CKO_PRIVATE_KEY)
}

func byID(key hsm.Key) *pkcs11.Attribute { return pkcs11.NewAttribute(pkcs11.CKA_ID, key.ID) }

// expectSigns signs with keys often enough to use both the keys themselves and session copies.
func expectSigns(t *testing.T, tok *token.Token, keys ...hsm.Key) {
	t.Helper()
	for range 20 {
		for i, key := range keys {
			if err := signWithin(tok, key, 20*time.Second); err != nil {
				t.Fatalf("key %d of %d: %v", i+1, len(keys), err)
			}
		}
	}
}

// expectReopened closes the token and signs with keys on a new connection, which knows only
// what the token contains.
func expectReopened(t *testing.T, f *rig.Faults, tok *token.Token, cfg token.Config, keys ...hsm.Key) {
	t.Helper()
	if err := tok.Close(); err != nil {
		t.Fatal(err)
	}
	expectSigns(t, open(t, cfg), keys...)
	expectIntact(t, f)
}

// expectGood requires success or ErrUnavailable.
func expectGood(t *testing.T, description string, err error) {
	t.Helper()
	if err != nil && !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("%s: %v, want nil or ErrUnavailable", description, err)
	}
}

// expectInjected requires that all faults of a function have occurred.
func expectInjected(t *testing.T, f *rig.Faults, function string) {
	t.Helper()
	if n := f.Pending(function); n != 0 {
		t.Errorf("%d faults of %s did not occur", n, function)
	}
}

// wrongCopies make C_CopyObject return a handle that is not that of a new copy.
var wrongCopies = map[string]func(t *testing.T, f *rig.Faults, other hsm.Key){
	"the key itself": func(t *testing.T, f *rig.Faults, _ hsm.Key) {
		f.Swap("C_CopyObject", 1, rig.InputHandle)
	},
	"another key": func(t *testing.T, f *rig.Faults, other hsm.Key) {
		_, private := findPair(t, f.Module, byID(other))
		f.Swap("C_CopyObject", 1, private)
	},
	"another key's copy": func(t *testing.T, f *rig.Faults, _ hsm.Key) { f.Repeat("C_CopyObject", 1) },
}

// TestWrongCopy makes a token return another object for a copy. That object must not be
// destroyed when the copy is dropped.
func TestWrongCopy(t *testing.T) {
	for name, inject := range wrongCopies {
		for end, drop := range map[string]func(*token.Token, hsm.Key) error{
			"forgotten": func(tok *token.Token, key hsm.Key) error { tok.Forget(key); return nil },
			"destroyed": func(tok *token.Token, key hsm.Key) error { return tok.Destroy(t.Context(), key) },
		} {
			t.Run(name+", "+end, func(t *testing.T) { testWrongCopy(t, inject, drop) })
		}
	}
}

func testWrongCopy(t *testing.T,
	inject func(*testing.T, *rig.Faults, hsm.Key), drop func(*token.Token, hsm.Key) error) {
	f, cfg := newFaulty(t)
	cfg.RecheckEvery = 5 * time.Millisecond
	tok := open(t, cfg)
	key, other := generate(t, tok, hsm.EC_P256), generate(t, tok, hsm.EC_P256)
	copied := f.Calls("C_CopyObject")
	signUntil(t, tok, other, "it is copied", func() bool { return f.Calls("C_CopyObject") > copied })
	inject(t, f, other)
	signUntilUnavailable(t, tok, key, "the copy is wrong", func() bool { return f.Pending("C_CopyObject") == 0 })
	expectSigns(t, tok, key, other)
	if err := drop(tok, key); err != nil {
		t.Fatal(err)
	}
	keys := []hsm.Key{key, other}
	if err := sign(t.Context(), tok, key); errors.Is(err, hsm.ErrNotFound) {
		keys = keys[1:] // drop destroyed it
	}
	for range 20 { // often enough for the copier to run in between
		for _, key := range keys {
			tok.Forget(key)
		}
		expectSigns(t, tok, keys...)
	}
	expectReopened(t, f, tok, cfg, keys...)
}

// signUntilUnavailable is like signUntil but accepts ErrUnavailable.
func signUntilUnavailable(t *testing.T, tok *token.Token, key hsm.Key, description string, holds func() bool) {
	t.Helper()
	waitFor(t, description, func() bool {
		expectGood(t, "signing until "+description, signWithin(tok, key, 20*time.Second))
		return holds()
	})
}

// TestWrongCopyMakesRoom replaces a wrong copy by that of another key.
func TestWrongCopyMakesRoom(t *testing.T) {
	for name, inject := range wrongCopies {
		t.Run(name, func(t *testing.T) {
			f, cfg := newFaulty(t)
			cfg.Copies, cfg.CopyIdle = 2, time.Millisecond
			tok := open(t, cfg)
			var keys []hsm.Key
			for range 4 {
				keys = append(keys, generate(t, tok, hsm.EC_P256))
			}
			for i := range 3 * len(keys) {
				if i == len(keys) || i == 2*len(keys) {
					inject(t, f, keys[1])
				}
				copied := f.Calls("C_CopyObject")
				signUntil(t, tok, keys[i%len(keys)], "it has a copy", func() bool { return f.Calls("C_CopyObject") > copied })
				expectSigns(t, tok, keys[i%len(keys)])
			}
			expectInjected(t, f, "C_CopyObject")
			expectSigns(t, tok, keys...)
			expectReopened(t, f, tok, cfg, keys...)
		})
	}
}

// TestWrongCopyOfTheCanary makes C_CopyObject in the trial at connecting return one of the
// first objects of the token: the canary key, the sealing key, or a key.
func TestWrongCopyOfTheCanary(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	keys := []hsm.Key{generate(t, tok, hsm.EC_P256), generate(t, tok, hsm.RSA_2048)}
	for _, handle := range []uint{rig.InputHandle, 1, 2, 3, 4, 5, 6, 7} { // SoftHSM numbers its objects from 1
		f.Swap("C_CopyObject", 1, handle)
		f.CloseSessions()
		expectSigns(t, tok, keys...)
		f.Swap("C_CopyObject", 0)
	}
	tok.Close()
	f.Swap("C_CopyObject", 1, rig.InputHandle)
	tok = open(t, cfg)
	expectInjected(t, f, "C_CopyObject")
	expectReopened(t, f, tok, cfg, keys...)
}

// TestWrongPair makes a token return other objects' handles for a new key pair. Neither the
// creation nor the destruction of the pair destroys the other objects.
func TestWrongPair(t *testing.T) {
	canary := pkcs11.NewAttribute(pkcs11.CKA_LABEL, "kmsgate-canary")
	for name, swap := range map[string]func(public, private uint) (uint, uint){
		"the public half":  func(public, private uint) (uint, uint) { return public, 0 },
		"the private half": func(public, private uint) (uint, uint) { return 0, private },
		"both halves":      func(public, private uint) (uint, uint) { return public, private },
	} {
		t.Run(name, func(t *testing.T) {
			f, cfg := newFaulty(t)
			tok := open(t, cfg)
			other := generate(t, tok, hsm.EC_P256)
			for _, attribute := range []*pkcs11.Attribute{byID(other), canary} {
				public, private := swap(findPair(t, f.Module, attribute))
				f.Swap("C_GenerateKeyPair", 1, public, private)
				testWrongPair(t, f, tok, other)
			}
			expectReopened(t, f, tok, cfg, other)
		})
	}
}

func testWrongPair(t *testing.T, f *rig.Faults, tok *token.Token, other hsm.Key) {
	id := make([]byte, 16)
	rand.Read(id)
	key, err := tok.Generate(t.Context(), hsm.EC_P256, id)
	expectGood(t, "Generate", err)
	expectInjected(t, f, "C_GenerateKeyPair")
	if err == nil {
		expectSigns(t, tok, key)
	}
	expectSigns(t, tok, other)
	if err := tok.Destroy(t.Context(), hsm.Key{ID: id, Spec: hsm.EC_P256}); err != nil {
		t.Errorf("Destroy: %v", err)
	}
	expectSigns(t, tok, other)
}

// TestDuplicateSession makes a token return one session handle twice: to workers that renew
// their sessions, and while connecting. Two goroutines in one session crash the process.
func TestDuplicateSession(t *testing.T) {
	f, cfg := newFaulty(t)
	cfg.Sessions = 4
	tok := open(t, cfg)
	l := startLoad(t, tok, generate(t, tok, hsm.EC_P256), generate(t, tok, hsm.RSA_2048))
	for range 10 {
		for _, times := range []int{0, 1} {
			f.Repeat("C_OpenSession", times)
			f.Fail("C_SignInit", pkcs11.CKR_FUNCTION_FAILED, 1)
			l.waitForMore(64)
		}
	}
	for times := 1; times < 12; times += 2 {
		f.Repeat("C_OpenSession", times)
		f.CloseSessions()
		l.signAgain("a duplicate session")
		f.Clear("C_OpenSession")
		l.waitForMore(64)
	}
}

// TestWrongLengths makes a token report wrong lengths, of its outputs and in answer to
// queries for a length.
func TestWrongLengths(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	u := newUser(t, tok)
	for function, use := range map[string]func(time.Duration) error{
		"C_Sign": func(d time.Duration) error {
			return errors.Join(signWithin(tok, u.ec, d), signWithin(tok, u.rsa, d))
		},
		"C_GetAttributeValue": u.useNewKey,
		"C_Encrypt":           u.seal,
		"C_Decrypt":           u.unseal,
	} {
		for _, n := range []uint{0, 7, 1 << 30, 0xffffffff} {
			for kind, inject := range map[string]func(string, uint, int){"output": f.SetLength, "length query": f.Promise} {
				description := fmt.Sprintf("%s, %s of %d bytes", function, kind, n)
				inject(function, n, 1)
				expectGood(t, description, use(20*time.Second))
				inject(function, n, rig.Always)
				f.CloseSessions()
				expectGood(t, description+", always", use(50*time.Millisecond))
				f.Clear(function)
				if err := errors.Join(signWithin(tok, u.ec, 20*time.Second), use(20*time.Second)); err != nil {
					t.Fatalf("after %s: %v", description, err)
				}
			}
		}
	}
	expectReopened(t, f, tok, cfg, u.ec, u.rsa)
}

// TestWrongCount makes a search report more objects than it returned.
func TestWrongCount(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	key := generate(t, tok, hsm.EC_P256)
	for _, n := range []uint{2, 3, 900} {
		f.SetLength("C_FindObjects", n, 1)
		f.CloseSessions()
		expectSigns(t, tok, key)
		expectInjected(t, f, "C_FindObjects")
	}
	expectReopened(t, f, tok, cfg, key)
}

// A user calls the methods of a token.
type user struct {
	tok     *token.Token
	ec, rsa hsm.Key
	sealed  []byte
}

var secret, aad = []byte("a secret of some length"), []byte("aad")

func newUser(t *testing.T, tok *token.Token) *user {
	t.Helper()
	u := &user{tok: tok, ec: generate(t, tok, hsm.EC_P256), rsa: generate(t, tok, hsm.RSA_2048)}
	var err error
	if u.sealed, err = tok.Seal(t.Context(), secret, aad); err != nil {
		t.Fatal(err)
	}
	return u
}

// seal seals a secret. It is an error if the result unseals to another value.
func (u *user) seal(d time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	sealed, err := u.tok.Seal(ctx, secret, aad)
	if err != nil {
		return err
	}
	// Unseal may fail too, but it must not return a wrong secret.
	if _, err := u.unsealText(sealed, d); errors.Is(err, errWrong) {
		return err
	}
	return nil
}

func (u *user) unseal(d time.Duration) error {
	_, err := u.unsealText(u.sealed, d)
	return err
}

// errWrong: the token returned a wrong secret.
var errWrong = errors.New("wrong secret")

func (u *user) unsealText(sealed []byte, d time.Duration) (got []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	got, err = u.tok.Unseal(ctx, sealed, aad)
	if err == nil && !bytes.Equal(got, secret) {
		err = fmt.Errorf("%w: %q", errWrong, got)
	}
	return got, err
}

// useNewKey makes a key, signs with it, and destroys it.
func (u *user) useNewKey(d time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	id := make([]byte, 16)
	rand.Read(id)
	key, err := u.tok.Generate(ctx, hsm.EC_P256, id)
	if err != nil {
		return err
	}
	return errors.Join(sign(ctx, u.tok, key), u.tok.Destroy(ctx, key))
}

// TestFewSessions makes a token report a limit of one or two sessions at reconnecting.
func TestFewSessions(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	key := generate(t, tok, hsm.EC_P256)
	for _, n := range []uint{1, 2} {
		f.LimitSessions(n)
		f.CloseSessions()
		expectGood(t, fmt.Sprintf("Sign with a limit of %d sessions", n), signWithin(tok, key, 200*time.Millisecond))
		f.LimitSessions(0)
		expectSigns(t, tok, key)
	}
	expectReopened(t, f, tok, cfg, key)
}

// TestOtherSlotFails makes the slot of another token fail, which is listed before ours.
func TestOtherSlotFails(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	key := generate(t, tok, hsm.EC_P256)
	slots, err := pkcs11.New(f.Module).GetSlotList(true)
	if err != nil || len(slots) < 2 {
		t.Fatalf("%d slots, %v, want at least 2", len(slots), err)
	}
	last := slots[len(slots)-1] // SoftHSM's slot for the next token
	f.FailSlot(last, pkcs11.CKR_DEVICE_ERROR)
	f.ReverseSlots()
	f.CloseSessions()
	expectSigns(t, tok, key)
	f.FailSlot(last, pkcs11.CKR_OK)
	if err := tok.Close(); err != nil {
		t.Fatal(err)
	}
	f.FailSlot(last, pkcs11.CKR_TOKEN_NOT_RECOGNIZED)
	expectSigns(t, open(t, cfg), key)
}

// TestQueueDropsAbandonedJobs has two thousand callers give up while the token is absent. Their
// jobs take no room in the queue from later callers.
func TestQueueDropsAbandonedJobs(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	key := generate(t, tok, hsm.EC_P256)
	f.Fail("C_Initialize", pkcs11.CKR_DEVICE_ERROR, rig.Always)
	f.CloseSessions()
	var callers sync.WaitGroup
	for range 100 {
		callers.Go(func() {
			for range 20 {
				if err := signWithin(tok, key, 10*time.Millisecond); !errors.Is(err, hsm.ErrUnavailable) {
					t.Errorf("Sign while the token is absent: %v, want ErrUnavailable", err)
				}
			}
		})
	}
	callers.Wait()
	if n := tok.Stats().Waiting; n != 0 {
		t.Errorf("%d operations are waiting after their callers have left, want 0", n)
	}
	const callerCount = 1000 // fits into the queue of 1024, together with the job that a worker has
	signed := make(chan error, callerCount)
	for range callerCount {
		go func() { signed <- signWithin(tok, key, 20*time.Second) }()
	}
	waitFor(t, "callers to wait", func() bool { return tok.Stats().Waiting == callerCount || len(signed) > 0 })
	f.Clear("C_Initialize")
	for range callerCount {
		if err := <-signed; err != nil {
			t.Fatalf("Sign within the deadline: %v", err)
		}
	}
	waitFor(t, "no caller to wait", func() bool { return tok.Stats().Waiting == 0 })
}

// TestWrongSignature makes a token return one wrong signature, as the first of a connection and
// as a later one, and then only wrong signatures.
func TestWrongSignature(t *testing.T) {
	for _, without := range []bool{true, false} {
		t.Run(fmt.Sprintf("NoSessionCopies %v", without), func(t *testing.T) {
			f, cfg := newFaulty(t)
			cfg.NoSessionCopies = without
			cfg.WatchEvery = time.Hour // so that the canary does not get the wrong signature
			tok := open(t, cfg)
			keys := []hsm.Key{generate(t, tok, hsm.RSA_2048), generate(t, tok, hsm.EC_P256)}
			tok.Close()
			tok = open(t, cfg)
			for range 10 {
				for _, key := range keys {
					f.Flip("C_Sign", 1)
					expectGood(t, "one wrong signature", signWithin(tok, key, 20*time.Second))
					expectInjected(t, f, "C_Sign")
				}
			}
			for _, key := range keys {
				testAllWrong(t, f, tok, key)
			}
			expectReopened(t, f, tok, cfg, keys...)
		})
	}
}

// testAllWrong makes every signature wrong and then every signature good again.
func testAllWrong(t *testing.T, f *rig.Faults, tok *token.Token, key hsm.Key) {
	losses := tok.Stats().Losses
	f.Flip("C_Sign", rig.Always)
	waitFor(t, "the connection to be lost", func() bool {
		if err := signWithin(tok, key, 100*time.Millisecond); !errors.Is(err, hsm.ErrUnavailable) {
			t.Fatalf("Sign with a token that returns wrong signatures: %v, want ErrUnavailable", err)
		}
		return tok.Stats().Losses > losses
	})
	if err := tok.Health(t.Context()); err == nil {
		t.Error("Health with a token that returns only wrong signatures: nil, want an error")
	}
	f.Clear("C_Sign")
	expectSigns(t, tok, key)
	if err := tok.Health(t.Context()); err != nil {
		t.Errorf("Health: %v", err)
	}
}

// TestWrongRecord requests a signature that must verify with another key's public half, as a
// tampered database would. The token works.
func TestWrongRecord(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	for _, spec := range []hsm.KeySpec{hsm.RSA_2048, hsm.EC_P256} {
		key, other := generate(t, tok, spec), generate(t, tok, spec)
		wrong := key
		wrong.Public = other.Public
		for range 50 {
			copied := f.Calls("C_CopyObject")
			signUntil(t, tok, key, "it has a copy", func() bool { return f.Calls("C_CopyObject") > copied })
			if err := signWithin(tok, wrong, 20*time.Second); !errors.Is(err, hsm.ErrNotFound) {
				t.Fatalf("%s, Sign with another key's public half: %v, want ErrNotFound", spec, err)
			}
			if err := signWithin(tok, key, 20*time.Second); err != nil {
				t.Fatalf("%s, Sign with the right public half: %v", spec, err)
			}
		}
	}
	if n := tok.Stats().Losses; n != 0 {
		t.Errorf("a wrong record caused %d connection losses, want 0", n)
	}
	expectIntact(t, f)
}

// TestRefused makes a working token reject operations with a vendor-defined return value.
func TestRefused(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	u := newUser(t, tok)
	const code = pkcs11.CKR_VENDOR_DEFINED + 0x11
	for function, use := range map[string]func() error{
		"C_GenerateKeyPair": func() error { return u.useNewKey(20 * time.Second) },
		"C_DestroyObject":   func() error { return tok.Destroy(t.Context(), generate(t, tok, hsm.EC_P256)) },
		"C_EncryptInit":     func() error { return u.seal(20 * time.Second) },
	} {
		f.Fail(function, code, rig.Always)
		err := use()
		if !errors.Is(err, hsm.ErrUnavailable) || !errors.Is(err, hsm.ErrRefused) || !errors.Is(err, pkcs11.Error(code)) {
			t.Errorf("%s fails: %v, want ErrUnavailable, ErrRefused and the code", function, err)
		}
		f.Clear(function)
	}
	f.HideMechanisms(pkcs11.CKM_RSA_PKCS_PSS, pkcs11.CKM_RSA_PKCS)
	if err := sign(t.Context(), tok, u.rsa); !errors.Is(err, hsm.ErrRefused) {
		t.Errorf("C_SignInit fails: %v, want ErrRefused", err)
	}
	f.HideMechanisms()
	expectSigns(t, tok, u.ec, u.rsa)
}

// TestChangeNotDurable makes AfterChange fail, which makes changes durable.
func TestChangeNotDurable(t *testing.T) {
	soft, _ := newSoftHSM(t)
	cfg := config(soft)
	full := errors.New("no space left on device")
	var fails atomic.Bool
	cfg.AfterChange = func() error {
		if fails.Load() {
			return full
		}
		return soft.Flush()
	}
	tok := open(t, cfg)
	key := generate(t, tok, hsm.EC_P256)
	id := make([]byte, 16)
	rand.Read(id)
	fails.Store(true)
	if _, err := tok.Generate(t.Context(), hsm.EC_P256, id); !errors.Is(err, hsm.ErrUnavailable) || !errors.Is(err, full) {
		t.Errorf("Generate: %v, want ErrUnavailable and AfterChange's error", err)
	}
	if err := tok.Destroy(t.Context(), key); !errors.Is(err, hsm.ErrUnavailable) || !errors.Is(err, full) {
		t.Errorf("Destroy: %v, want ErrUnavailable and AfterChange's error", err)
	}
	fails.Store(false)
	if err := tok.Destroy(t.Context(), key); err != nil {
		t.Errorf("Destroy again: %v", err)
	}
	p11, s := rawSession(t, soft.Module)
	for kind, id := range map[string][]byte{"that could not be made": id, "that was destroyed": key.ID} {
		if left := findObjects(t, p11, s, pkcs11.NewAttribute(pkcs11.CKA_ID, id)); len(left) != 0 {
			t.Errorf("%d objects are left of a key %s, want 0", len(left), kind)
		}
	}
}

// TestWrongSearch makes searches during connecting list an object twice or not at all, or makes
// an object unreadable once. No key is lost.
func TestWrongSearch(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	keys := []hsm.Key{generate(t, tok, hsm.EC_P256), generate(t, tok, hsm.RSA_2048)}
	for _, fault := range []struct {
		name, function string
		inject         func()
	}{
		{"one object twice", "C_FindObjects", func() { f.Repeat("C_FindObjects", 1) }},
		{"objects twice", "C_FindObjects", func() { f.Repeat("C_FindObjects", rig.Always) }},
		{"nothing once", "C_FindObjects", func() { f.SetLength("C_FindObjects", 0, 1) }},
		{"nothing twice", "C_FindObjects", func() { f.SetLength("C_FindObjects", 0, 2) }},
		{"no such object", "C_GetAttributeValue", func() {
			f.Fail("C_GetAttributeValue", pkcs11.CKR_OBJECT_HANDLE_INVALID, 1)
		}},
		{"incomplete object", "C_GetAttributeValue", func() {
			f.Fail("C_GetAttributeValue", pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, 1)
		}},
	} {
		t.Run(fault.name, func(t *testing.T) {
			fault.inject()
			f.CloseSessions()
			expectSigns(t, tok, keys...)
			f.Clear(fault.function)
			for _, key := range keys {
				if err := tok.Has(key); err != nil {
					t.Errorf("Has: %v", err)
				}
			}
		})
	}
	expectReopened(t, f, tok, cfg, keys...)
}

// TestSearchFindsAnotherKey makes the search for a key with a rejected handle find another key
// once.
func TestSearchFindsAnotherKey(t *testing.T) {
	f, cfg := newFaulty(t)
	cfg.NoSessionCopies = true
	tok := open(t, cfg)
	key, other := generate(t, tok, hsm.EC_P256), generate(t, tok, hsm.EC_P256)
	_, private := findPair(t, f.Module, byID(other))
	f.Fail("C_SignInit", pkcs11.CKR_KEY_HANDLE_INVALID, 1)
	f.Swap("C_FindObjects", 1, private)
	expectGood(t, "Sign after finding another key", signWithin(tok, key, 20*time.Second))
	expectInjected(t, f, "C_FindObjects")
	expectSigns(t, tok, key, other)
	expectReopened(t, f, tok, cfg, key, other)
}

// TestWrongSealing makes a token return a wrong result while sealing and while unsealing. Seal
// must not return a sealed secret that cannot be unsealed.
func TestWrongSealing(t *testing.T) {
	for name, sealing := range map[string]struct {
		hidden           uint
		sealing, opening string
	}{
		"AES-GCM": {0xffff, "C_Encrypt", "C_Decrypt"},
		"HMAC":    {pkcs11.CKM_AES_GCM, "C_Sign", "C_Sign"},
	} {
		t.Run(name, func(t *testing.T) {
			f, cfg := newFaulty(t)
			cfg.WatchEvery = time.Hour // so that the canary does not get the wrong result
			f.HideMechanisms(sealing.hidden)
			tok := open(t, cfg)
			u := newUser(t, tok)
			for range 5 {
				for kind, inject := range map[string]func(string, int){"bit": f.Flip, "length": f.Truncate} {
					inject(sealing.sealing, 1)
					sealed, err := tok.Seal(t.Context(), secret, aad)
					expectGood(t, "Seal with a wrong "+kind, err)
					expectInjected(t, f, sealing.sealing)
					if err == nil {
						if _, err := u.unsealText(sealed, 20*time.Second); err != nil {
							t.Errorf("Unseal of a secret sealed with a wrong %s: %v", kind, err)
						}
					}
					inject(sealing.opening, 1)
					expectGood(t, "Unseal with a wrong "+kind, u.unseal(20*time.Second))
					expectInjected(t, f, sealing.opening)
					if err := u.unseal(20 * time.Second); err != nil {
						t.Errorf("Unseal after a wrong %s: %v", kind, err)
					}
				}
			}
		})
	}
}

// TestLongWorkIsNotAHang makes work of many calls take longer than the limit for one call.
func TestLongWorkIsNotAHang(t *testing.T) {
	f, cfg := newFaulty(t)
	cfg.WatchEvery, cfg.HangAfter = 20*time.Millisecond, 200*time.Millisecond
	cfg.OnHang = func(err error) { t.Errorf("OnHang(%v)", err) }
	tok := open(t, cfg)
	var key hsm.Key
	for range 25 {
		key = generate(t, tok, hsm.EC_P256)
	}
	f.Delay("C_GetAttributeValue", 5*time.Millisecond)
	long := func(description string, do func() error) {
		t.Helper()
		began := time.Now()
		if err := do(); err != nil {
			t.Errorf("%s: %v", description, err)
		}
		if took := time.Since(began); took < cfg.HangAfter {
			t.Errorf("%s took %v, want at least %v", description, took, cfg.HangAfter)
		}
	}
	long("Objects", func() error { _, err := tok.Objects(t.Context()); return err })
	f.CloseSessions()
	long("connecting", func() error { return signWithin(tok, key, 20*time.Second) })
}

// TestHangAtOpen makes calls hang during Open.
func TestHangAtOpen(t *testing.T) {
	for _, function := range []string{"C_Initialize", "C_Login", "C_FindObjects"} {
		t.Run(function, func(t *testing.T) {
			f, cfg := newFaulty(t)
			hung := make(chan error, 1)
			cfg.WatchEvery, cfg.HangAfter = 20*time.Millisecond, 200*time.Millisecond
			cfg.OnHang = func(err error) { hung <- err }
			f.Hang(function, rig.Always)
			opened := make(chan error, 1)
			go func() {
				tok, err := token.Open(cfg)
				if err == nil {
					err = tok.Close()
				}
				opened <- err
			}()
			select {
			case <-hung:
			case <-time.After(20 * time.Second):
				t.Error("OnHang was not called")
			}
			f.Release()
			if err := <-opened; err != nil {
				t.Errorf("Open after the call returned: %v", err)
			}
		})
	}
}
