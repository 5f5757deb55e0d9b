package token_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest/rig"
	"github.com/kmsgate/kmsgate/hsm/token"
)

// newFaulty makes a SoftHSM token behind a module that injects faults.
func newFaulty(t *testing.T) (*rig.Faults, token.Config) {
	t.Helper()
	soft, _ := newSoftHSM(t)
	f := rig.NewFaults(t, soft.Module)
	cfg := config(soft)
	cfg.Module = f.Module
	return f, cfg
}

// A load is 32 callers who sign without pause and have 20 s for each signature.
// None of them may fail.
type load struct {
	t        *testing.T
	tok      *token.Token
	keys     []hsm.Key
	signed   atomic.Int64
	stop     chan struct{}
	stopOnce sync.Once
	callers  sync.WaitGroup
}

func startLoad(t *testing.T, tok *token.Token, keys ...hsm.Key) *load {
	l := &load{t: t, tok: tok, keys: keys, stop: make(chan struct{})}
	for i := range 32 {
		l.callers.Go(func() { l.call(keys[i%len(keys)]) })
	}
	t.Cleanup(l.end)
	return l
}

func (l *load) call(key hsm.Key) {
	for {
		select {
		case <-l.stop:
			return
		default:
		}
		if err := signIn(l.tok, key, 20*time.Second); err != nil {
			l.t.Errorf("a caller with time left failed: %v", err)
			return
		}
		l.signed.Add(1)
	}
}

// goesOn waits for so many more signatures than have been made.
func (l *load) goesOn(signatures int64) {
	l.t.Helper()
	until := l.signed.Load() + signatures
	waitFor(l.t, "signatures", func() bool { return l.signed.Load() >= until || l.t.Failed() })
}

// survives requires a good signature of each kind within a second of the end of
// a fault, which inject has come and go.
func (l *load) survives(fault string, inject func()) {
	l.t.Helper()
	inTime(l.t, func() string {
		l.goesOn(64)
		inject()
		return l.recovers(fault)
	})
}

// recovers makes a signature of each kind, now that the fault is gone, and says
// so if that took long.
func (l *load) recovers(after string) (late string) {
	l.t.Helper()
	gone := time.Now()
	for _, key := range l.keys {
		if err := signIn(l.tok, key, 20*time.Second); err != nil {
			l.t.Fatalf("after %s: %v", after, err)
		}
	}
	if took := time.Since(gone); took > time.Second {
		return fmt.Sprintf("after %s: no signatures for %v, want a second at most", after, took)
	}
	return ""
}

// inTime tries something three times that has to be done in time, and says what
// was late otherwise: the machine may be busy with something else, but not always.
func inTime(t *testing.T, try func() (late string)) {
	t.Helper()
	var late string
	for range 3 {
		if late = try(); late == "" || t.Failed() {
			return
		}
		t.Log(late)
	}
	t.Error(late)
}

func (l *load) end() {
	l.stopOnce.Do(func() { close(l.stop) })
	l.callers.Wait()
}

func signIn(tok *token.Token, key hsm.Key, d time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return sign(ctx, tok, key)
}

// TestLosses takes what a connection stands on away from under it.
func TestLosses(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	l := startLoad(t, tok, generate(t, tok, hsm.EC_P256), generate(t, tok, hsm.RSA_2048))
	fail := func(function string, code uint) func() { return func() { f.Fail(function, code, 3) } }
	and := func(first, second func()) func() { return func() { first(); second() } }
	for _, fault := range []struct {
		name     string
		function string // that fails, if there is one
		inject   func()
		lost     bool // the connection, each time; what fails thrice may hit three that have a good second try
	}{
		{"sessions closed", "", f.CloseSessions, true},
		{"login lost", "", f.Logout, true},
		{"module reinitialized", "", f.Reinitialize, true},
		{"device error", "C_Sign", fail("C_Sign", pkcs11.CKR_DEVICE_ERROR), false},
		{"general error", "C_Sign", fail("C_Sign", pkcs11.CKR_GENERAL_ERROR), false},
		{"function failed", "C_Sign", fail("C_Sign", pkcs11.CKR_FUNCTION_FAILED), false},
		{"token not recognized", "C_Sign", fail("C_Sign", pkcs11.CKR_TOKEN_NOT_RECOGNIZED), false},
		{"of its vendor", "C_Sign", fail("C_Sign", pkcs11.CKR_VENDOR_DEFINED+1), false},
		{"out of memory", "C_SignInit", fail("C_SignInit", pkcs11.CKR_HOST_MEMORY), false},
		{"no session", "C_OpenSession", and(fail("C_OpenSession", pkcs11.CKR_SESSION_COUNT), f.CloseSessions), true},
		{"no login", "C_Login", and(fail("C_Login", pkcs11.CKR_DEVICE_ERROR), f.CloseSessions), true},
	} {
		for range 2 {
			losses := tok.Stats().Losses
			l.survives(fault.name, fault.inject)
			if fault.lost && tok.Stats().Losses == losses {
				t.Errorf("%s: the connection was not lost", fault.name)
			}
			if fault.function != "" {
				waitFor(t, fault.name, func() bool { return f.Pending(fault.function) == 0 })
			}
		}
	}
	l.end()
	expectWhole(t, f)
}

// expectWhole requires that the module was never closed with calls in it, and
// that what there was one of in the token is there once.
func expectWhole(t *testing.T, f *rig.Faults) {
	t.Helper()
	if f.Collisions() != 0 {
		t.Errorf("the module was closed %d times with calls in it", f.Collisions())
	}
	p11, s := rawSession(t, f.Module)
	for label, class := range map[string]uint{"kmsgate-canary": pkcs11.CKO_PRIVATE_KEY, "kmsgate-sealing": pkcs11.CKO_SECRET_KEY} {
		found := findObjects(t, p11, s, pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), // not copies
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label))
		if len(found) != 1 {
			t.Errorf("%d keys labelled %s in the token, want the one that was there", len(found), label)
		}
	}
}

// TestConnectingFails has each call that connecting is made of fail, twice: as
// tokens fail, and as an object does that is not there, or not whole.
func TestConnectingFails(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	l := startLoad(t, tok, generate(t, tok, hsm.EC_P256), generate(t, tok, hsm.RSA_2048))
	for _, function := range []string{
		"C_Finalize", "C_CloseAllSessions", "C_CloseSession", "C_Initialize", "C_GetInfo", "C_GetSlotList", "C_GetTokenInfo", "C_GetMechanismList",
		"C_OpenSession", "C_GetSessionInfo", "C_Login", "C_FindObjectsInit", "C_FindObjects", "C_FindObjectsFinal", "C_GetAttributeValue",
		"C_EncryptInit", "C_Encrypt", "C_DecryptInit", "C_Decrypt", "C_SignInit", "C_Sign", "C_CopyObject", "C_DestroyObject",
	} {
		codes := []uint{pkcs11.CKR_DEVICE_ERROR}
		switch function {
		case "C_GetAttributeValue", "C_EncryptInit", "C_DecryptInit", "C_SignInit", "C_CopyObject", "C_DestroyObject": // of an object
			codes = append(codes, pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID)
		}
		for _, code := range codes {
			l.survives(fmt.Sprintf("%s failing twice with %#x", function, code), func() {
				losses := tok.Stats().Losses
				f.Fail(function, code, 2)
				f.CloseSessions()
				waitFor(t, "the loss to be noticed", func() bool { return tok.Stats().Losses > losses })
			})
			f.Fail(function, pkcs11.CKR_OK, 0)
		}
	}
	l.end()
	expectWhole(t, f)
}

// TestFaultySignature has the token give out wrong signatures. A wrong one gives
// an RSA key away, so none may leave.
func TestFaultySignature(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	key := generate(t, tok, hsm.RSA_2048)
	digest := make([]byte, hsm.DigestSize)
	rand.Read(digest)
	for name, inject := range map[string]func(string, int){"a bit": f.Flip, "a byte too little": f.Truncate} {
		for _, alg := range hsm.Algorithms(key.Spec) {
			inject("C_Sign", 16)
			var callers sync.WaitGroup
			for range 32 {
				callers.Go(func() {
					ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
					defer cancel()
					sig, err := hsm.Verified(tok, nil).Sign(ctx, key, alg, digest)
					if err != nil {
						expectGood(t, name, err)
						return
					}
					if ok, err := hsm.Verify(key, alg, digest, sig); err != nil || !ok {
						t.Errorf("%s: a wrong %s signature was given out: %v", name, alg, err)
					}
				})
			}
			callers.Wait()
			expectUsed(t, f, "C_Sign")
			if err := signIn(tok, key, 20*time.Second); err != nil {
				t.Errorf("%s: after wrong signatures: %v", name, err)
			}
		}
	}
}

// TestHang has calls into the token not return, while signing and while connecting.
// That is told, and nothing is closed over them.
func TestHang(t *testing.T) {
	for _, function := range []string{"C_Sign", "C_Finalize", "C_Initialize", "C_GetTokenInfo", "C_Login", "C_FindObjects"} {
		t.Run(function, func(t *testing.T) { testHang(t, function) })
	}
}

func testHang(t *testing.T, function string) {
	f, cfg := newFaulty(t)
	hung := make(chan error, 1)
	cfg.WatchEvery, cfg.HangAfter = 20*time.Millisecond, 200*time.Millisecond
	cfg.OnHang = func(err error) { hung <- err }
	tok := open(t, cfg)
	key := generate(t, tok, hsm.EC_P256)
	f.Hang(function, rig.Always)
	if function != "C_Sign" {
		f.CloseSessions()
	}
	if err := signIn(tok, key, 100*time.Millisecond); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("Sign that hangs: %v, want ErrUnavailable", err)
	}
	select {
	case err := <-hung:
		if !strings.Contains(err.Error(), "restarted") {
			t.Errorf("OnHang(%v), want what to do", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("OnHang was not called")
	}
	f.Release()
	if err := signIn(tok, key, 20*time.Second); err != nil {
		t.Errorf("Sign after the call returned: %v", err)
	}
	expectWhole(t, f)
}

// TestLossesLeaveNothing loses the connection a thousand times, and as many
// sessions without it, and looks at what is left.
func TestLossesLeaveNothing(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	key := generate(t, tok, hsm.EC_P256)
	signs := func() {
		t.Helper()
		if err := signIn(tok, key, 20*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	lose := func() { f.CloseSessions(); signs() }
	fail := func() { f.Fail("C_SignInit", pkcs11.CKR_FUNCTION_FAILED, 1); signs() }
	lose()
	fail() // what is opened once and kept
	before := left{runtime.NumGoroutine(), descriptors(t), f.Sessions()}
	for range 1000 {
		lose()
	}
	losses := tok.Stats().Losses
	for range 1000 {
		fail()
	}
	if losses < 1000 || tok.Stats().Losses != losses {
		t.Errorf("%d losses and then %d, want 1000 at least and then no more", losses, tok.Stats().Losses)
	}
	after := before
	defer func() { t.Logf("before %+v, after %+v", before, after) }()
	waitFor(t, "things to be as they were", func() bool {
		after = left{runtime.NumGoroutine(), descriptors(t), f.Sessions()}
		return after.minus(before) < 10 // who comes and goes: one for a hundred losses would be too much
	})
}

// left is what a connection could leave behind.
type left struct{ goroutines, descriptors, sessions int }

// minus is by how much what there is most more of has grown.
func (l left) minus(other left) int {
	return max(l.goroutines-other.goroutines, l.descriptors-other.descriptors, l.sessions-other.sessions)
}

// descriptors counts the file descriptors of this process.
func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
