package token_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest/rig"
	"github.com/kmsgate/kmsgate/hsm/token"
	"github.com/kmsgate/kmsgate/softhsm"
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
	t       *testing.T
	tok     *token.Token
	keys    []hsm.Key
	signed  atomic.Int64
	stop    chan struct{}
	stop1   sync.Once
	callers sync.WaitGroup
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

// recovers requires a signature of each kind within a second of now, when the
// fault is gone.
func (l *load) recovers(after string) {
	l.t.Helper()
	gone := time.Now()
	for _, key := range l.keys {
		if err := signIn(l.tok, key, time.Until(gone.Add(time.Second))); err != nil {
			l.t.Errorf("after %s: no %s signature within a second: %v", after, key.Spec, err)
		}
	}
}

func (l *load) end() {
	l.stop1.Do(func() { close(l.stop) })
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
	fail := func(code uint) func() { return func() { f.Fail("C_Sign", code, 3) } }
	for _, fault := range []struct {
		name   string
		inject func()
	}{
		{"sessions closed", f.CloseSessions},
		{"login lost", f.Logout},
		{"module reinitialized", f.Reinitialize},
		{"device error", fail(pkcs11.CKR_DEVICE_ERROR)},
		{"general error", fail(pkcs11.CKR_GENERAL_ERROR)},
		{"function failed", fail(pkcs11.CKR_FUNCTION_FAILED)},
		{"token not recognized", fail(pkcs11.CKR_TOKEN_NOT_RECOGNIZED)},
		{"out of memory", func() { f.Fail("C_SignInit", pkcs11.CKR_HOST_MEMORY, 3) }},
		{"no session", func() {
			f.Fail("C_OpenSession", pkcs11.CKR_SESSION_COUNT, 3)
			f.CloseSessions()
		}},
		{"no login", func() {
			f.Fail("C_Login", pkcs11.CKR_DEVICE_ERROR, 3)
			f.CloseSessions()
		}},
	} {
		for range 3 {
			l.goesOn(64)
			fault.inject()
			l.recovers(fault.name)
		}
	}
	l.end()
	if f.Torn() != 0 {
		t.Errorf("the module was closed %d times with calls in it", f.Torn())
	}
	p11, s := rawSession(t, f.Module)
	if canaries := findObjects(t, p11, s, pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_LABEL, "kmsgate-canary")); len(canaries) != 1 {
		t.Errorf("%d canary keys in the token, want the one that was there", len(canaries))
	}
}

// TestKilledHSM kills the process that the token is in, and starts it again. With
// two calls under way p11-kit's client would wait for ever then: who reads another
// call's answer waits to be woken by who cannot read his (its rpc_socket_read since
// 0.23.17, and measured).
func TestKilledHSM(t *testing.T) {
	remote, cfg := newRemote(t)
	var losses atomic.Int32
	cfg.OnLoss = func() { losses.Add(1) }
	tok := open(t, cfg)
	l := startLoad(t, tok, generate(t, tok, hsm.EC_P256), generate(t, tok, hsm.RSA_2048))
	for range 3 {
		l.goesOn(64)
		before := losses.Load()
		remote.Kill()
		waitFor(t, "the loss to be noticed", func() bool { return losses.Load() > before })
		remote.Start()
		l.recovers("a new process")
	}
}

// TestStoppedHSM stops the process that the token is in for 5 s. Callers leave
// when their time is over.
func TestStoppedHSM(t *testing.T) {
	remote, cfg := newRemote(t)
	tok := open(t, cfg)
	key := generate(t, tok, hsm.EC_P256)
	l := startLoad(t, tok, key)
	l.goesOn(64)
	l.end()
	remote.Stop()
	var callers sync.WaitGroup
	for range 32 {
		callers.Go(func() {
			for range 2 {
				began := time.Now()
				err := signIn(tok, key, 2500*time.Millisecond)
				took := time.Since(began)
				if !errors.Is(err, hsm.ErrUnavailable) || (took-2500*time.Millisecond).Abs() > 300*time.Millisecond {
					t.Errorf("a caller with 2.5 s was answered %v after %v, want ErrUnavailable", err, took)
				}
			}
		})
	}
	callers.Wait()
	remote.Continue()
	l = startLoad(t, tok, key)
	l.recovers("the process went on")
	l.goesOn(64)
}

// TestNoDescriptors leaves the process no file descriptor. One signature that is
// tried then ends SoftHSM's token in this process, until it is initialized again.
func TestNoDescriptors(t *testing.T) {
	soft, _ := newSoftHSM(t)
	var losses atomic.Int32
	cfg := config(soft)
	cfg.OnLoss = func() { losses.Add(1) }
	cfg.Copies = -1 // session copies need no files
	tok := open(t, cfg)
	l := startLoad(t, tok, generate(t, tok, hsm.EC_P256), generate(t, tok, hsm.RSA_2048))
	for range 3 {
		l.goesOn(64)
		before := losses.Load()
		free := exhaustDescriptors(t)
		waitFor(t, "the loss to be noticed", func() bool { return losses.Load() > before })
		free()
		l.recovers("descriptors were free")
	}
}

// exhaustDescriptors lowers the limit to the descriptors that are open, until
// free.
func exhaustDescriptors(t *testing.T) (free func()) {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	set := func(l unix.Rlimit) {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
			t.Error(err)
		}
	}
	next, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0) // the lowest that is free
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(next)
	set(unix.Rlimit{Cur: uint64(next), Max: limit.Max})
	free = sync.OnceFunc(func() { set(limit) })
	t.Cleanup(free)
	return free
}

// TestPINChanged changes the PIN under the gateway. It tries the one that it has
// once, and not again, and tells those who wait.
func TestPINChanged(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	key := generate(t, tok, hsm.EC_P256)
	p11, s := rawSession(t, f.Module)
	if err := p11.SetPIN(s, string(cfg.PIN), "another PIN"); err != nil {
		t.Fatal(err)
	}
	logins := f.Calls("C_Login")
	f.CloseSessions()
	var callers sync.WaitGroup
	for range 32 {
		callers.Go(func() {
			if err := signIn(tok, key, 20*time.Second); !errors.Is(err, hsm.ErrUnavailable) || !errors.Is(err, token.ErrPIN) {
				t.Errorf("Sign after the PIN was refused: %v, want ErrUnavailable and ErrPIN", err)
			}
		})
	}
	callers.Wait()
	if err := tok.Health(t.Context()); !errors.Is(err, token.ErrPIN) {
		t.Errorf("Health: %v, want ErrPIN", err)
	}
	if tried := f.Calls("C_Login") - logins; tried != 1 {
		t.Errorf("the refused PIN was tried %d times, want 1", tried)
	}
}

// TestPINFlags has a token say that a wrong PIN would cost much.
func TestPINFlags(t *testing.T) {
	f, cfg := newFaulty(t)
	open(t, cfg).Close() // provisions
	for _, flag := range []struct {
		name       string
		flags      uint
		insistence int // logins of an operator who insists
	}{
		{"few tries left", pkcs11.CKF_USER_PIN_COUNT_LOW, 1},
		{"one try left", pkcs11.CKF_USER_PIN_FINAL_TRY, 1},
		{"locked", pkcs11.CKF_USER_PIN_LOCKED, 0},
	} {
		for insist, want := range map[bool]int{false: 0, true: flag.insistence} {
			f.TokenFlags(flag.flags)
			cfg.InsistOnPIN = insist
			logins := f.Calls("C_Login")
			tok, err := token.Open(cfg)
			if err == nil {
				tok.Close()
			}
			if errors.Is(err, token.ErrPIN) != (want == 0) || f.Calls("C_Login")-logins != want {
				t.Errorf("%s, insist %v: %v after %d logins, want %d", flag.name, insist, err, f.Calls("C_Login")-logins, want)
			}
		}
		t.Run(flag.name, func(t *testing.T) { testFlagsAtReconnect(t, f, cfg, flag.flags) })
	}
}

// testFlagsAtReconnect has the flags appear while the gateway is connected.
func testFlagsAtReconnect(t *testing.T, f *rig.Faults, cfg token.Config, flags uint) {
	f.TokenFlags(0)
	cfg.InsistOnPIN = false
	tok := open(t, cfg)
	logins := f.Calls("C_Login")
	f.TokenFlags(flags)
	f.CloseSessions()
	waitFor(t, "the connection to be given up", func() bool {
		err := tok.Health(t.Context())
		return errors.Is(err, token.ErrPIN)
	})
	if tried := f.Calls("C_Login") - logins; tried != 0 {
		t.Errorf("the PIN was tried %d times, want none", tried)
	}
}

// TestChurn has another process make and destroy keys in the token.
func TestChurn(t *testing.T) {
	if pin := os.Getenv("KMSGATE_CHURN"); pin != "" {
		churn(t, token.PIN(pin))
		return
	}
	f, cfg := newFaulty(t)
	var losses atomic.Int32
	cfg.OnLoss = func() { losses.Add(1) }
	tok := open(t, cfg)
	l := startLoad(t, tok, generate(t, tok, hsm.EC_P256), generate(t, tok, hsm.RSA_2048))
	other := exec.Command(os.Args[0], "-test.run=^TestChurn$")
	other.Env = append(os.Environ(), "KMSGATE_CHURN="+string(cfg.PIN))
	other.Stderr = os.Stderr
	stdin, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	keys := 0
	for made := bufio.NewScanner(stdout); made.Scan(); {
		if made.Text() != "made" {
			continue
		}
		if keys++; keys == 100 {
			stdin.Close()
		}
	}
	if err := other.Wait(); err != nil || keys < 100 {
		t.Errorf("the other process made %d keys, and ended with %v", keys, err)
	}
	l.goesOn(64)
	if losses.Load() != 0 || f.Torn() != 0 {
		t.Errorf("%d losses, %d calls torn, want none", losses.Load(), f.Torn())
	}
}

// churn makes keys and destroys them until its input ends.
func churn(t *testing.T, pin token.PIN) {
	module, err := softhsm.Module()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { io.Copy(io.Discard, os.Stdin); close(ended) }()
	tok := open(t, token.Config{Module: module, Label: softhsm.Label, PIN: pin})
	for {
		select {
		case <-ended:
			return
		default:
		}
		if err := tok.Destroy(t.Context(), generate(t, tok, hsm.EC_P256)); err != nil {
			t.Fatal(err)
		}
		fmt.Println("made")
	}
}

// TestFaultySignature has the token give out wrong signatures. A wrong one gives
// an RSA key away, so none may leave.
func TestFaultySignature(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	key := generate(t, tok, hsm.RSA_2048)
	digest := make([]byte, hsm.DigestSize)
	rand.Read(digest)
	for name, inject := range map[string]func(string, int){"a bit": f.Flip, "a byte too little": f.Short} {
		for _, alg := range hsm.Algorithms(key.Spec) {
			inject("C_Sign", 16)
			var callers sync.WaitGroup
			for range 32 {
				callers.Go(func() {
					sig, err := tok.Sign(context.Background(), key, alg, digest)
					if err != nil {
						return
					}
					if ok, err := hsm.Verify(key, alg, digest, sig); err != nil || !ok {
						t.Errorf("%s: a wrong %s signature was given out: %v", name, alg, err)
					}
				})
			}
			callers.Wait()
			inject("C_Sign", 0)
			if err := signIn(tok, key, time.Second); err != nil {
				t.Errorf("%s: after wrong signatures: %v", name, err)
			}
		}
	}
}

// TestHang has calls into the token not return. That is told, and nothing is
// closed over them.
func TestHang(t *testing.T) {
	f, cfg := newFaulty(t)
	hung := make(chan error, 1)
	cfg.WatchEvery, cfg.HangAfter = 20*time.Millisecond, 200*time.Millisecond
	cfg.OnHang = func(err error) { hung <- err }
	tok := open(t, cfg)
	key := generate(t, tok, hsm.EC_P256)
	f.Hang("C_Sign", rig.Always)
	began := time.Now()
	if err := signIn(tok, key, 100*time.Millisecond); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("Sign that hangs: %v, want ErrUnavailable", err)
	}
	if err := <-hung; !strings.Contains(err.Error(), "restarted") {
		t.Errorf("OnHang(%v), want what to do", err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("OnHang was called after %v, want 200 ms", took)
	}
	f.Release()
	if err := signIn(tok, key, time.Second); err != nil {
		t.Errorf("Sign after the call returned: %v", err)
	}
	if f.Torn() != 0 {
		t.Errorf("the module was closed %d times with calls in it", f.Torn())
	}
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
