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

// The tests here have a token say OK and answer nonsense: another object's handle, an
// impossible length, a wrong bit. No key may be destroyed for it, no wrong signature
// given out, and the process goes on.

// halvesOf gives the handles of a key pair in the token, which all of this process has
// them by.
func halvesOf(t *testing.T, module string, attribute *pkcs11.Attribute) (public, private uint) {
	t.Helper()
	p11, s := rawSession(t, module)
	defer p11.CloseSession(s)
	half := func(class uint) uint {
		found := findObjects(t, p11, s, attribute, pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true))
		if len(found) != 1 {
			t.Fatalf("%d objects of class %d, want the one that was made", len(found), class)
		}
		return uint(found[0])
	}
	return half(pkcs11.CKO_PUBLIC_KEY), half(pkcs11.CKO_PRIVATE_KEY)
}

func byID(key hsm.Key) *pkcs11.Attribute { return pkcs11.NewAttribute(pkcs11.CKA_ID, key.ID) }

// expectSigns has keys sign, by whatever way they are signed with now, and by the
// next.
func expectSigns(t *testing.T, tok *token.Token, keys ...hsm.Key) {
	t.Helper()
	for range 20 {
		for i, key := range keys {
			if err := signIn(tok, key, 20*time.Second); err != nil {
				t.Fatalf("key %d of %d: %v", i+1, len(keys), err)
			}
		}
	}
}

// expectKept has keys sign on a new connection, which knows no more than the token.
func expectKept(t *testing.T, f *rig.Faults, tok *token.Token, cfg token.Config, keys ...hsm.Key) {
	t.Helper()
	if err := tok.Close(); err != nil {
		t.Fatal(err)
	}
	expectSigns(t, open(t, cfg), keys...)
	expectWhole(t, f)
}

// expectGood requires a good signature, or to be told that there is none now.
func expectGood(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil && !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("%s: %v, want a good answer or ErrUnavailable", what, err)
	}
}

// expectUsed requires that a fault was met with.
func expectUsed(t *testing.T, f *rig.Faults, function string) {
	t.Helper()
	if n := f.Pending(function); n != 0 {
		t.Errorf("%d faults of %s did not happen", n, function)
	}
}

// wrongCopies are what a copy of a key can be besides that.
var wrongCopies = map[string]func(t *testing.T, f *rig.Faults, other hsm.Key){
	"the key itself": func(t *testing.T, f *rig.Faults, _ hsm.Key) { f.Swap("C_CopyObject", 1, rig.InputHandle) },
	"another key": func(t *testing.T, f *rig.Faults, other hsm.Key) {
		_, private := halvesOf(t, f.Module, byID(other))
		f.Swap("C_CopyObject", 1, private)
	},
	"another key's copy": func(t *testing.T, f *rig.Faults, _ hsm.Key) { f.Repeat("C_CopyObject", 1) },
}

// TestWrongCopy has a token give something else for a copy. What becomes of the copy
// then must not become of that.
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

func testWrongCopy(t *testing.T, inject func(*testing.T, *rig.Faults, hsm.Key), drop func(*token.Token, hsm.Key) error) {
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
		keys = keys[1:] // it was destroyed
	}
	for range 20 { // so that the copier has had its turn between two
		for _, key := range keys {
			tok.Forget(key)
		}
		expectSigns(t, tok, keys...)
	}
	expectKept(t, f, tok, cfg, keys...)
}

// signUntilUnavailable is signUntil where a wrong signature is made meanwhile.
func signUntilUnavailable(t *testing.T, tok *token.Token, key hsm.Key, what string, holds func() bool) {
	t.Helper()
	waitFor(t, what, func() bool {
		expectGood(t, "signing until "+what, signIn(tok, key, 20*time.Second))
		return holds()
	})
}

// TestWrongCopyMakesRoom has a wrong copy make room for another key's.
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
				signUntil(t, tok, keys[i%len(keys)], "there is a copy", func() bool { return f.Calls("C_CopyObject") > copied })
				expectSigns(t, tok, keys[i%len(keys)])
			}
			expectUsed(t, f, "C_CopyObject")
			expectSigns(t, tok, keys...)
			expectKept(t, f, tok, cfg, keys...)
		})
	}
}

// TestWrongCopyOfTheCanary has the copy that is tried at connecting be any of the first
// objects of the token: the canary key, the key that seals, a key.
func TestWrongCopyOfTheCanary(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	keys := []hsm.Key{generate(t, tok, hsm.EC_P256), generate(t, tok, hsm.RSA_2048)}
	for _, handle := range []uint{rig.InputHandle, 1, 2, 3, 4, 5, 6, 7} { // SoftHSM counts anew
		f.Swap("C_CopyObject", 1, handle)
		f.CloseSessions()
		expectSigns(t, tok, keys...)
		f.Swap("C_CopyObject", 0)
	}
	tok.Close()
	f.Swap("C_CopyObject", 1, rig.InputHandle)
	tok = open(t, cfg)
	expectUsed(t, f, "C_CopyObject")
	expectKept(t, f, tok, cfg, keys...)
}

// TestWrongPair has a token give other objects' handles for a key pair that it made.
// They are destroyed neither at once nor with the pair.
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
			for _, whose := range []*pkcs11.Attribute{byID(other), canary} {
				public, private := swap(halvesOf(t, f.Module, whose))
				f.Swap("C_GenerateKeyPair", 1, public, private)
				testWrongPair(t, f, tok, other)
			}
			expectKept(t, f, tok, cfg, other)
		})
	}
}

func testWrongPair(t *testing.T, f *rig.Faults, tok *token.Token, other hsm.Key) {
	id := make([]byte, 16)
	rand.Read(id)
	key, err := tok.Generate(t.Context(), hsm.EC_P256, id)
	expectGood(t, "Generate", err)
	expectUsed(t, f, "C_GenerateKeyPair")
	if err == nil {
		expectSigns(t, tok, key)
	}
	expectSigns(t, tok, other)
	if err := tok.Destroy(t.Context(), hsm.Key{ID: id, Spec: hsm.EC_P256}); err != nil {
		t.Errorf("Destroy: %v", err)
	}
	expectSigns(t, tok, other)
}

// TestOneSessionTwice has a token give one session to two: to workers who replace
// theirs, and while connecting. Two goroutines in one session crash the process.
func TestOneSessionTwice(t *testing.T) {
	f, cfg := newFaulty(t)
	cfg.Sessions = 4
	tok := open(t, cfg)
	l := startLoad(t, tok, generate(t, tok, hsm.EC_P256), generate(t, tok, hsm.RSA_2048))
	for range 10 {
		for _, times := range []int{0, 1} {
			f.Repeat("C_OpenSession", times)
			f.Fail("C_SignInit", pkcs11.CKR_FUNCTION_FAILED, 1)
			l.goesOn(64)
		}
	}
	for times := 1; times < 12; times += 2 {
		f.Repeat("C_OpenSession", times)
		f.CloseSessions()
		l.recovers("a session given twice")
		f.Clear("C_OpenSession")
		l.goesOn(64)
	}
}

// TestWrongLengths has a token tell wrong lengths, of what it gives out and when it
// is asked for the length alone.
func TestWrongLengths(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	u := newUser(t, tok)
	for function, use := range map[string]func(time.Duration) error{
		"C_Sign":              func(d time.Duration) error { return errors.Join(signIn(tok, u.ec, d), signIn(tok, u.rsa, d)) },
		"C_GetAttributeValue": u.generates,
		"C_Encrypt":           u.seals,
		"C_Decrypt":           u.unseals,
	} {
		for _, n := range []uint{0, 7, 1 << 30, 0xffffffff} {
			for kind, inject := range map[string]func(string, uint, int){"output": f.SetLength, "promise": f.Promise} {
				what := fmt.Sprintf("%s, %s of %d bytes", function, kind, n)
				inject(function, n, 1)
				expectGood(t, what, use(20*time.Second))
				inject(function, n, rig.Always)
				f.CloseSessions()
				expectGood(t, what+", always", use(50*time.Millisecond))
				f.Clear(function)
				if err := errors.Join(signIn(tok, u.ec, 20*time.Second), use(20*time.Second)); err != nil {
					t.Fatalf("after %s: %v", what, err)
				}
			}
		}
	}
	expectKept(t, f, tok, cfg, u.ec, u.rsa)
}

// TestWrongCount has a search give more objects than it wrote.
func TestWrongCount(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	key := generate(t, tok, hsm.EC_P256)
	for _, n := range []uint{2, 3, 900} {
		f.SetLength("C_FindObjects", n, 1)
		f.CloseSessions()
		expectSigns(t, tok, key)
		expectUsed(t, f, "C_FindObjects")
	}
	expectKept(t, f, tok, cfg, key)
}

// A user uses a token in every way.
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

// seals seals a secret, and it is an error if that cannot be unsealed.
func (u *user) seals(d time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	sealed, err := u.tok.Seal(ctx, secret, aad)
	if err != nil {
		return err
	}
	// Now the other way may fail, too: what was sealed has to be good.
	if _, err := u.unsealsThis(sealed, d); errors.Is(err, errWrong) {
		return err
	}
	return nil
}

func (u *user) unseals(d time.Duration) error {
	_, err := u.unsealsThis(u.sealed, d)
	return err
}

// errWrong: something wrong was given out.
var errWrong = errors.New("a wrong answer was given out")

func (u *user) unsealsThis(sealed []byte, d time.Duration) (got []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	got, err = u.tok.Unseal(ctx, sealed, aad)
	if err == nil && !bytes.Equal(got, secret) {
		err = fmt.Errorf("%w: %q", errWrong, got)
	}
	return got, err
}

// generates makes a key, has it sign, and destroys it.
func (u *user) generates(d time.Duration) error {
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

// TestFewSessions has a token say at reconnecting that it can have one session or two
// open.
func TestFewSessions(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	key := generate(t, tok, hsm.EC_P256)
	for _, n := range []uint{1, 2} {
		f.LimitSessions(n)
		f.CloseSessions()
		expectGood(t, fmt.Sprintf("a token with %d sessions", n), signIn(tok, key, 200*time.Millisecond))
		f.LimitSessions(0)
		expectSigns(t, tok, key)
	}
	expectKept(t, f, tok, cfg, key)
}

// TestOtherSlotFails has a slot fail that is not ours, and that is listed before it.
func TestOtherSlotFails(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	key := generate(t, tok, hsm.EC_P256)
	slots, err := pkcs11.New(f.Module).GetSlotList(true)
	if err != nil || len(slots) < 2 {
		t.Fatalf("%d slots, %v, want one more than ours", len(slots), err)
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

// TestQueueIsForWhoWaits has two thousand callers come to a token that is away, and
// leave. They take no room from who comes then.
func TestQueueIsForWhoWaits(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	key := generate(t, tok, hsm.EC_P256)
	f.Fail("C_Initialize", pkcs11.CKR_DEVICE_ERROR, rig.Always)
	f.CloseSessions()
	var callers sync.WaitGroup
	for range 100 {
		callers.Go(func() {
			for range 20 {
				if err := signIn(tok, key, 10*time.Millisecond); !errors.Is(err, hsm.ErrUnavailable) {
					t.Errorf("while the token is away: %v, want ErrUnavailable", err)
				}
			}
		})
	}
	callers.Wait()
	if n := tok.Stats().Waiting; n != 0 {
		t.Errorf("%d operations wait whose callers have left", n)
	}
	const many = 1000 // with the one that a worker had, as many as the queue has room for
	signed := make(chan error, many)
	for range many {
		go func() { signed <- signIn(tok, key, 20*time.Second) }()
	}
	waitFor(t, "callers to wait", func() bool { return tok.Stats().Waiting == many || len(signed) > 0 })
	f.Clear("C_Initialize")
	for range many {
		if err := <-signed; err != nil {
			t.Fatalf("a caller with time left: %v", err)
		}
	}
	waitFor(t, "nobody to wait", func() bool { return tok.Stats().Waiting == 0 })
}

// TestWrongSignature has a token make a wrong signature, as the first of a connection
// and as a later one, and then no other.
func TestWrongSignature(t *testing.T) {
	for _, without := range []bool{true, false} {
		t.Run(fmt.Sprintf("NoSessionCopies %v", without), func(t *testing.T) {
			f, cfg := newFaulty(t)
			cfg.NoSessionCopies = without
			cfg.WatchEvery = time.Hour // it must not be the one who gets it
			tok := open(t, cfg)
			keys := []hsm.Key{generate(t, tok, hsm.RSA_2048), generate(t, tok, hsm.EC_P256)}
			tok.Close()
			tok = open(t, cfg)
			for range 10 {
				for _, key := range keys {
					f.Flip("C_Sign", 1)
					expectGood(t, "one wrong signature", signIn(tok, key, 20*time.Second))
					expectUsed(t, f, "C_Sign")
				}
			}
			for _, key := range keys {
				testAllWrong(t, f, tok, key)
			}
			expectKept(t, f, tok, cfg, keys...)
		})
	}
}

// testAllWrong has every signature be wrong, until they are not.
func testAllWrong(t *testing.T, f *rig.Faults, tok *token.Token, key hsm.Key) {
	losses := tok.Stats().Losses
	f.Flip("C_Sign", rig.Always)
	waitFor(t, "the connection to be given up", func() bool {
		if err := signIn(tok, key, 100*time.Millisecond); !errors.Is(err, hsm.ErrUnavailable) {
			t.Fatalf("Sign of a token that makes wrong signatures: %v, want ErrUnavailable", err)
		}
		return tok.Stats().Losses > losses
	})
	if err := tok.Health(t.Context()); err == nil {
		t.Error("the token makes nothing but wrong signatures, and is said to be well")
	}
	f.Clear("C_Sign")
	expectSigns(t, tok, key)
	if err := tok.Health(t.Context()); err != nil {
		t.Errorf("Health: %v", err)
	}
}

// TestWrongRecord asks for a signature that is to verify with another key's public
// half, as a database that was tampered with does. The token is well.
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
			if err := signIn(tok, wrong, 20*time.Second); !errors.Is(err, hsm.ErrNotFound) {
				t.Fatalf("%s, Sign for another key's public half: %v, want ErrNotFound", spec, err)
			}
			if err := signIn(tok, key, 20*time.Second); err != nil {
				t.Fatalf("%s, Sign for its own: %v", spec, err)
			}
		}
	}
	if n := tok.Stats().Losses; n != 0 {
		t.Errorf("the connection was given up %d times for a wrong record", n)
	}
	expectWhole(t, f)
}

// TestRefused has a token that is well refuse, with codes of its vendor's.
func TestRefused(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	u := newUser(t, tok)
	const vendors = pkcs11.CKR_VENDOR_DEFINED + 0x11
	for function, use := range map[string]func() error{
		"C_GenerateKeyPair": func() error { return u.generates(20 * time.Second) },
		"C_DestroyObject":   func() error { return tok.Destroy(t.Context(), generate(t, tok, hsm.EC_P256)) },
		"C_EncryptInit":     func() error { return u.seals(20 * time.Second) },
	} {
		f.Fail(function, vendors, rig.Always)
		if err := use(); !errors.Is(err, hsm.ErrUnavailable) || !errors.Is(err, hsm.ErrRefused) || !errors.Is(err, pkcs11.Error(vendors)) {
			t.Errorf("%s refuses: %v, want ErrRefused with the code", function, err)
		}
		f.Clear(function)
	}
	f.HideMechanisms(pkcs11.CKM_RSA_PKCS_PSS, pkcs11.CKM_RSA_PKCS)
	if err := sign(t.Context(), tok, u.rsa); !errors.Is(err, hsm.ErrRefused) {
		t.Errorf("C_SignInit refuses: %v, want ErrRefused", err)
	}
	f.HideMechanisms()
	expectSigns(t, tok, u.ec, u.rsa)
}

// TestChangeNotKept has what makes changes durable fail.
func TestChangeNotKept(t *testing.T) {
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
		t.Errorf("Generate that is not kept: %v, want ErrUnavailable and why", err)
	}
	if err := tok.Destroy(t.Context(), key); !errors.Is(err, hsm.ErrUnavailable) || !errors.Is(err, full) {
		t.Errorf("Destroy that is not kept: %v, want ErrUnavailable and why", err)
	}
	fails.Store(false)
	if err := tok.Destroy(t.Context(), key); err != nil {
		t.Errorf("Destroy again: %v", err)
	}
	p11, s := rawSession(t, soft.Module)
	for what, id := range map[string][]byte{"that could not be made": id, "that was destroyed": key.ID} {
		if left := findObjects(t, p11, s, pkcs11.NewAttribute(pkcs11.CKA_ID, id)); len(left) != 0 {
			t.Errorf("%d objects are left of a key %s", len(left), what)
		}
	}
}

// TestSearchIsWrong has searches list an object twice or not at all, or an object be
// unreadable once, while connecting. No key is lost for it.
func TestSearchIsWrong(t *testing.T) {
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
		{"no such object", "C_GetAttributeValue", func() { f.Fail("C_GetAttributeValue", pkcs11.CKR_OBJECT_HANDLE_INVALID, 1) }},
		{"half an object", "C_GetAttributeValue", func() { f.Fail("C_GetAttributeValue", pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, 1) }},
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
	expectKept(t, f, tok, cfg, keys...)
}

// TestFoundIsAnother has the search for a key whose handle was refused find another
// key, once.
func TestFoundIsAnother(t *testing.T) {
	f, cfg := newFaulty(t)
	cfg.NoSessionCopies = true
	tok := open(t, cfg)
	key, other := generate(t, tok, hsm.EC_P256), generate(t, tok, hsm.EC_P256)
	_, private := halvesOf(t, f.Module, byID(other))
	f.Fail("C_SignInit", pkcs11.CKR_KEY_HANDLE_INVALID, 1)
	f.Swap("C_FindObjects", 1, private)
	expectGood(t, "another key found", signIn(tok, key, 20*time.Second))
	expectUsed(t, f, "C_FindObjects")
	expectSigns(t, tok, key, other)
	expectKept(t, f, tok, cfg, key, other)
}

// TestWrongSealing has a token make a mistake while sealing, and while unsealing. What
// cannot be unsealed must not be kept for a secret.
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
			cfg.WatchEvery = time.Hour // it must not be the one who gets it
			f.HideMechanisms(sealing.hidden)
			tok := open(t, cfg)
			u := newUser(t, tok)
			for range 5 {
				for kind, inject := range map[string]func(string, int){"bit": f.Flip, "length": f.Truncate} {
					inject(sealing.sealing, 1)
					sealed, err := tok.Seal(t.Context(), secret, aad)
					expectGood(t, "Seal with a wrong "+kind, err)
					expectUsed(t, f, sealing.sealing)
					if err == nil {
						if _, err := u.unsealsThis(sealed, 20*time.Second); err != nil {
							t.Errorf("what was sealed with a wrong %s: %v", kind, err)
						}
					}
					inject(sealing.opening, 1)
					expectGood(t, "Unseal with a wrong "+kind, u.unseals(20*time.Second))
					expectUsed(t, f, sealing.opening)
					if err := u.unseals(20 * time.Second); err != nil {
						t.Errorf("Unseal after a wrong %s: %v", kind, err)
					}
				}
			}
		})
	}
}

// TestLongIsNoHang has work take longer than a call may: it is made of many.
func TestLongIsNoHang(t *testing.T) {
	f, cfg := newFaulty(t)
	cfg.WatchEvery, cfg.HangAfter = 20*time.Millisecond, 200*time.Millisecond
	cfg.OnHang = func(err error) { t.Errorf("OnHang(%v)", err) }
	tok := open(t, cfg)
	var key hsm.Key
	for range 25 {
		key = generate(t, tok, hsm.EC_P256)
	}
	f.Delay("C_GetAttributeValue", 5*time.Millisecond)
	long := func(what string, do func() error) {
		t.Helper()
		began := time.Now()
		if err := do(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if took := time.Since(began); took < cfg.HangAfter {
			t.Errorf("%s took %v, which is not long", what, took)
		}
	}
	long("Objects", func() error { _, err := tok.Objects(t.Context()); return err })
	f.CloseSessions()
	long("connecting", func() error { return signIn(tok, key, 20*time.Second) })
}

// TestHangAtOpen has the first call of all hang, and the login.
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
