package token_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
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

// newFaulty returns a SoftHSM token behind a module that injects faults.
func newFaulty(t *testing.T) (*rig.Faults, token.Config) {
	t.Helper()
	soft, _ := newSoftHSM(t)
	f := rig.NewFaults(t, soft.Module)
	cfg := config(soft)
	cfg.Module = f.Module
	return f, cfg
}

// A load is 32 callers that sign without pause and have 20 s for each signature.
// None of the signatures may fail.
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
		if err := signWithin(l.tok, key, 20*time.Second); err != nil {
			l.t.Errorf("a caller within its deadline failed: %v", err)
			return
		}
		l.signed.Add(1)
	}
}

// waitForMore waits until the callers have made the given number of further signatures.
func (l *load) waitForMore(signatures int64) {
	l.t.Helper()
	until := l.signed.Load() + signatures
	waitFor(l.t, "signatures", func() bool { return l.signed.Load() >= until || l.t.Failed() })
}

// testFault calls inject, which causes a fault and ends it. It requires a good signature with
// each key after that.
func (l *load) testFault(fault string, inject func()) {
	l.t.Helper()
	l.waitForMore(64)
	inject()
	l.signAgain(fault)
}

// signAgain makes a signature with each key after a fault.
func (l *load) signAgain(after string) {
	l.t.Helper()
	for _, key := range l.keys {
		if err := signWithin(l.tok, key, 20*time.Second); err != nil {
			l.t.Fatalf("after %s: %v", after, err)
		}
	}
}

func (l *load) end() {
	l.stopOnce.Do(func() { close(l.stop) })
	l.callers.Wait()
}

func signWithin(tok *token.Token, key hsm.Key, d time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return sign(ctx, tok, key)
}

// TestLosses breaks a connection in every way: its sessions, its login and its module.
func TestLosses(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	l := startLoad(t, tok, generate(t, tok, hsm.EC_P256), generate(t, tok, hsm.RSA_2048))
	fail := func(function string, code uint) func() { return func() { f.Fail(function, code, 3) } }
	combine := func(first, second func()) func() { return func() { first(); second() } }
	for _, fault := range []struct {
		name     string
		function string // the function that fails, if any
		inject   func()
		// lost is set if the fault always loses the connection. Three failures may hit three
		// different jobs, whose second tries succeed.
		lost bool
	}{
		{"sessions closed", "", f.CloseSessions, true},
		{"login lost", "", f.Logout, true},
		{"module reinitialized", "", f.Reinitialize, true},
		{"device error", "C_Sign", fail("C_Sign", pkcs11.CKR_DEVICE_ERROR), false},
		{"general error", "C_Sign", fail("C_Sign", pkcs11.CKR_GENERAL_ERROR), false},
		{"function failed", "C_Sign", fail("C_Sign", pkcs11.CKR_FUNCTION_FAILED), false},
		{"token not recognized", "C_Sign", fail("C_Sign", pkcs11.CKR_TOKEN_NOT_RECOGNIZED), false},
		{"vendor's error", "C_Sign", fail("C_Sign", pkcs11.CKR_VENDOR_DEFINED+1), false},
		{"out of memory", "C_SignInit", fail("C_SignInit", pkcs11.CKR_HOST_MEMORY), false},
		{"no session", "C_OpenSession", combine(fail("C_OpenSession", pkcs11.CKR_SESSION_COUNT), f.CloseSessions), true},
		{"no login", "C_Login", combine(fail("C_Login", pkcs11.CKR_DEVICE_ERROR), f.CloseSessions), true},
	} {
		for range 2 {
			losses := tok.Stats().Losses
			l.testFault(fault.name, fault.inject)
			if fault.lost && tok.Stats().Losses == losses {
				t.Errorf("%s: the connection was not lost", fault.name)
			}
			if fault.function != "" {
				waitFor(t, fault.name, func() bool { return f.Pending(fault.function) == 0 })
			}
		}
	}
	l.end()
	expectIntact(t, f)
}

// expectIntact requires that the module was never closed with calls in flight, and that the
// token has exactly one canary key and one sealing key.
func expectIntact(t *testing.T, f *rig.Faults) {
	t.Helper()
	if f.Collisions() != 0 {
		t.Errorf("the module was closed %d times with calls in flight, want 0", f.Collisions())
	}
	p11, s := rawSession(t, f.Module)
	for label, class := range map[string]uint{
		"kmsgate-canary":  pkcs11.CKO_PRIVATE_KEY,
		"kmsgate-sealing": pkcs11.CKO_SECRET_KEY,
	} {
		found := findObjects(t, p11, s, pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), // without session copies
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label))
		if len(found) != 1 {
			t.Errorf("%d keys labelled %q in the token, want 1", len(found), label)
		}
	}
}

// TestConnectingFails makes each call of connecting fail twice: with a device error, and with
// the errors for a missing or incomplete object.
func TestConnectingFails(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	l := startLoad(t, tok, generate(t, tok, hsm.EC_P256), generate(t, tok, hsm.RSA_2048))
	for _, function := range []string{
		"C_Finalize", "C_CloseAllSessions", "C_CloseSession", "C_Initialize", "C_GetInfo", "C_GetSlotList",
		"C_GetTokenInfo", "C_GetMechanismList", "C_OpenSession", "C_GetSessionInfo", "C_Login", "C_FindObjectsInit",
		"C_FindObjects", "C_FindObjectsFinal", "C_GetAttributeValue", "C_EncryptInit", "C_Encrypt", "C_DecryptInit",
		"C_Decrypt", "C_SignInit", "C_Sign", "C_CopyObject", "C_DestroyObject",
	} {
		codes := []uint{pkcs11.CKR_DEVICE_ERROR}
		switch function {
		// These functions take an object handle.
		case "C_GetAttributeValue", "C_EncryptInit", "C_DecryptInit", "C_SignInit", "C_CopyObject", "C_DestroyObject":
			codes = append(codes, pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID)
		}
		for _, code := range codes {
			l.testFault(fmt.Sprintf("%s failing twice with %#x", function, code), func() {
				losses := tok.Stats().Losses
				f.Fail(function, code, 2)
				f.CloseSessions()
				waitFor(t, "the loss to be noticed", func() bool { return tok.Stats().Losses > losses })
			})
			f.Fail(function, pkcs11.CKR_OK, 0)
		}
	}
	l.end()
	expectIntact(t, f)
}

// TestFaultySignature makes the token return wrong signatures. A wrong signature discloses an
// RSA key, so none may be returned.
func TestFaultySignature(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	key := generate(t, tok, hsm.RSA_2048)
	digest := make([]byte, hsm.DigestSize)
	rand.Read(digest)
	for name, inject := range map[string]func(string, int){"a wrong bit": f.Flip, "a missing byte": f.Truncate} {
		for _, alg := range hsm.Algorithms(key.Spec) {
			inject("C_Sign", 16)
			var callers sync.WaitGroup
			for range 32 {
				callers.Go(func() {
					ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
					defer cancel()
					sig, err := hsm.NewRoute(tok, nil).Sign(ctx, key, alg, digest)
					if err != nil {
						expectGood(t, name, err)
						return
					}
					if ok, err := hsm.Verify(key, alg, digest, sig); err != nil || !ok {
						t.Errorf("%s: a wrong %s signature was returned: %v", name, alg, err)
					}
				})
			}
			callers.Wait()
			expectInjected(t, f, "C_Sign")
			if err := signWithin(tok, key, 20*time.Second); err != nil {
				t.Errorf("%s: Sign after wrong signatures: %v", name, err)
			}
		}
	}
}

// TestHang makes calls into the token hang, while signing and while connecting. OnHang is
// called, and nothing is closed during the call.
func TestHang(t *testing.T) {
	for _, function := range []string{
		"C_Sign", "C_Finalize", "C_Initialize", "C_GetTokenInfo", "C_Login", "C_FindObjects",
	} {
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
	if err := signWithin(tok, key, 100*time.Millisecond); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("Sign that hangs: %v, want ErrUnavailable", err)
	}
	select {
	case err := <-hung:
		if !strings.Contains(err.Error(), "restarted") {
			t.Errorf("OnHang(%v), want an error that says to restart", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("OnHang was not called")
	}
	f.Release()
	if err := signWithin(tok, key, 20*time.Second); err != nil {
		t.Errorf("Sign after the call returned: %v", err)
	}
	expectIntact(t, f)
}

// TestOneCallHangs makes one call hang for longer than its limit, while others return. OnHang is not
// called, and the others go on.
func TestOneCallHangs(t *testing.T) {
	for _, function := range []string{"C_Sign", "C_GenerateKeyPair"} {
		t.Run(function, func(t *testing.T) { testOneCallHangs(t, function) })
	}
}

func testOneCallHangs(t *testing.T, function string) {
	f, cfg := newFaulty(t)
	told := make(chan struct{})
	var once sync.Once
	cfg.Logger = logTo(func(message string) {
		if strings.Contains(message, "a call into the token does not return") {
			once.Do(func() { close(told) })
		}
	})
	cfg.WatchEvery, cfg.HangAfter, cfg.GenerateAfter = 20*time.Millisecond, time.Second, time.Second
	cfg.Sessions = 2
	cfg.OnHang = func(err error) { t.Errorf("OnHang(%v)", err) }
	tok := open(t, cfg)
	key := generate(t, tok, hsm.EC_P256)
	f.Hang(function, 1)
	hanging := make(chan error, 1)
	go func() {
		if function == "C_Sign" {
			hanging <- signWithin(tok, key, time.Minute)
			return
		}
		_, err := tok.Generate(t.Context(), hsm.EC_P256, bytes.Repeat([]byte{7}, 16))
		hanging <- err
	}()
	waitFor(t, "the call to hang", func() bool { return f.InFlight() >= 1 })
	select {
	case <-told:
	case <-time.After(time.Minute):
		t.Error("the log does not say that a call hangs")
	}
	for began := time.Now(); time.Since(began) < 2*cfg.HangAfter; {
		if err := signWithin(tok, key, time.Minute); err != nil {
			t.Fatalf("Sign beside a call that hangs: %v", err)
		}
	}
	f.Release()
	if err := <-hanging; err != nil {
		t.Errorf("the call that hung: %v", err)
	}
	expectIntact(t, f)
}

// TestStandstill has the process stand still for an hour between any two ticks of the watchdog, during a
// call that takes much less. Nothing is reported.
func TestStandstill(t *testing.T) {
	f, cfg := newFaulty(t)
	cfg.Logger = logTo(func(message string) {
		if strings.Contains(message, "a call into the token does not return") {
			t.Errorf("the log says: %s", message)
		}
	})
	cfg.WatchEvery, cfg.HangAfter = 20*time.Millisecond, 30*time.Minute
	cfg.OnHang = func(err error) { t.Errorf("OnHang(%v)", err) }
	var ticks atomic.Int64
	began := time.Now()
	token.SetClock(&cfg, func() time.Time { return began.Add(time.Duration(ticks.Add(1)) * time.Hour) })
	tok := open(t, cfg)
	key := generate(t, tok, hsm.EC_P256)
	f.Hang("C_Sign", rig.Always)
	signed := make(chan error, 1)
	go func() { signed <- sign(context.Background(), tok, key) }()
	waitFor(t, "the call to hang", func() bool { return f.InFlight() >= 1 })
	until := ticks.Load() + 10
	waitFor(t, "ticks", func() bool { return ticks.Load() >= until })
	f.Release()
	if err := <-signed; err != nil {
		t.Errorf("Sign: %v", err)
	}
}

// logTo returns a logger that calls f with the message of each record.
func logTo(f func(message string)) *slog.Logger { return slog.New(messages{slog.DiscardHandler, f}) }

type messages struct {
	slog.Handler
	f func(message string)
}

func (messages) Enabled(context.Context, slog.Level) bool { return true }

func (m messages) Handle(_ context.Context, r slog.Record) error {
	m.f(r.Message)
	return nil
}

// TestLossesLeaveNothing loses the connection a thousand times, and then a thousand sessions.
// It requires that no goroutines, descriptors or sessions leak.
func TestLossesLeaveNothing(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	key := generate(t, tok, hsm.EC_P256)
	signs := func() {
		t.Helper()
		if err := signWithin(tok, key, 20*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	lose := func() { f.CloseSessions(); signs() }
	fail := func() { f.Fail("C_SignInit", pkcs11.CKR_FUNCTION_FAILED, 1); signs() }
	lose()
	fail() // afterwards, everything that is opened only once is open
	before := resources{runtime.NumGoroutine(), descriptors(t), f.Sessions()}
	for range 1000 {
		lose()
	}
	losses := tok.Stats().Losses
	for range 1000 {
		fail()
	}
	if losses < 1000 || tok.Stats().Losses != losses {
		t.Errorf("%d losses and then %d, want at least 1000 and then no more", losses, tok.Stats().Losses)
	}
	after := before
	defer func() { t.Logf("before %+v, after %+v", before, after) }()
	waitFor(t, "the resources to be released", func() bool {
		after = resources{runtime.NumGoroutine(), descriptors(t), f.Sessions()}
		return after.growth(before) < 10 // a leak in one of a hundred losses would exceed this
	})
}

// resources are what a connection could leak.
type resources struct{ goroutines, descriptors, sessions int }

// growth returns the largest increase of one of the resources since before.
func (r resources) growth(before resources) int {
	return max(r.goroutines-before.goroutines, r.descriptors-before.descriptors, r.sessions-before.sessions)
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
