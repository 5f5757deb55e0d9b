package token_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest/rig"
	"github.com/kmsgate/kmsgate/hsm/token"
	"github.com/kmsgate/kmsgate/softhsm"
)

// anotherVariable names the environment variable with what another process does with the token.
const anotherVariable = "KMSGATE_ANOTHER"

// inAnotherProcess uses the token in another process: "enter PIN" enters a wrong PIN, and
// "change OLD NEW" changes the PIN. PINs must not contain spaces.
func inAnotherProcess(t *testing.T, action ...string) {
	t.Helper()
	other := exec.Command(os.Args[0], "-test.run=^TestAnothersWrongPIN$")
	other.Env = append(os.Environ(), anotherVariable+"="+strings.Join(action, " "), "GORACE=atexit_sleep_ms=0")
	if out, err := other.CombinedOutput(); err != nil {
		t.Fatalf("%s in another process: %v\n%s", action[0], err, out)
	}
}

func beAnother(t *testing.T, action []string) {
	module, err := softhsm.Module()
	if err != nil {
		t.Fatal(err)
	}
	p11 := pkcs11.New(module)
	if err := p11.Initialize(); err != nil {
		t.Fatal(err)
	}
	defer p11.Finalize()
	slots, err := p11.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	s, err := p11.OpenSession(slots[0], pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		t.Fatal(err)
	}
	if action[0] == "change" {
		if err := p11.SetPIN(s, action[1], action[2]); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err := p11.Login(s, pkcs11.CKU_USER, action[1]); !errors.Is(err, pkcs11.Error(pkcs11.CKR_PIN_INCORRECT)) {
		t.Fatalf("logging in with a wrong PIN: %v", err)
	}
	if info, err := p11.GetTokenInfo(slots[0]); err != nil || info.Flags&pkcs11.CKF_USER_PIN_COUNT_LOW == 0 {
		t.Fatalf("after a wrong PIN, the flags are %#x, %v, want USER_PIN_COUNT_LOW", info.Flags, err)
	}
}

// TestAnothersWrongPIN has somebody else enter a wrong PIN once. The gateway uses its right one
// after a loss, and at a start.
func TestAnothersWrongPIN(t *testing.T) {
	if action := os.Getenv(anotherVariable); action != "" {
		beAnother(t, strings.Fields(action))
		return
	}
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	key := generate(t, tok, hsm.EC_P256)
	logins := f.Calls("C_Login")
	inAnotherProcess(t, "enter", "not-the-PIN")
	f.CloseSessions()
	expectSigns(t, tok, key)
	tok.Close()
	inAnotherProcess(t, "enter", "not-the-PIN")
	expectSigns(t, open(t, cfg), key)
	expectTried(t, f, logins, 2)
}

// TestPIN counts login attempts. A refused PIN is tried once, however often a supervisor starts
// the gateway. The right PIN works at the next start.
func TestPIN(t *testing.T) {
	token.CheapHashes(t)
	soft, _ := newSoftHSM(t)
	logins := 0
	cfg := config(soft)
	cfg.BeforeLogin = func() error { logins++; return nil }
	cfg.RefusedPINFile = filepath.Join(t.TempDir(), "pin-refused")
	right := cfg.PIN
	cfg.PIN = "not the PIN"
	for range 5 {
		if _, err := token.Open(cfg); !errors.Is(err, hsm.ErrPIN) || logins != 1 {
			t.Errorf("Open with a wrong PIN: %v after %d logins, want ErrPIN after 1", err, logins)
		}
	}
	if err := token.Inspect(cfg, nil); !errors.Is(err, hsm.ErrPIN) || logins != 1 {
		t.Errorf("Inspect with a refused PIN: %v after %d logins, want ErrPIN and no further one", err, logins)
	}
	insisting := cfg
	insisting.InsistOnPIN = true
	if _, err := token.Open(insisting); !errors.Is(err, hsm.ErrPIN) || logins != 2 {
		t.Errorf("Open with InsistOnPIN: %v after %d logins, want ErrPIN after another one", err, logins)
	}
	cfg.PIN = right
	open(t, cfg)
	if _, err := os.Stat(cfg.RefusedPINFile); logins != 3 || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after %d logins, the record of refused PINs: %v, want 3 and none", logins, err)
	}
	for _, s := range []string{cfg.PIN.String(), cfg.PIN.GoString(), cfg.PIN.LogValue().String()} {
		if strings.Contains(s, soft.PIN()) {
			t.Errorf("a PIN prints as %q, want a placeholder", s)
		}
	}
}

// TestPINChanged changes the PIN while the token is open. The Token tries the old PIN once and
// not again, and waiting callers get ErrPIN.
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
			err := signWithin(tok, key, 20*time.Second)
			if !errors.Is(err, hsm.ErrUnavailable) || !errors.Is(err, hsm.ErrPIN) {
				t.Errorf("Sign after the PIN was refused: %v, want ErrUnavailable and ErrPIN", err)
			}
		})
	}
	callers.Wait()
	if err := tok.Health(t.Context()); !errors.Is(err, hsm.ErrPIN) {
		t.Errorf("Health: %v, want ErrPIN", err)
	}
	expectTried(t, f, logins, 1)
}

// A pinSource is where an operator puts the PIN. It counts how often it was read.
type pinSource struct {
	pin   atomic.Value // a token.PIN
	reads atomic.Int64
}

// newPINSource adds to the configuration a source that has its PIN, and a record of refused PINs.
func newPINSource(t *testing.T, cfg *token.Config) *pinSource {
	s := new(pinSource)
	s.pin.Store(cfg.PIN)
	cfg.ReadPIN = func() (token.PIN, error) {
		s.reads.Add(1)
		return s.pin.Load().(token.PIN), nil
	}
	cfg.RefusedPINFile = filepath.Join(t.TempDir(), "pin-refused")
	return s
}

// waitForReads waits until the source was read some more times.
func (s *pinSource) waitForReads(t *testing.T) {
	t.Helper()
	until := s.reads.Load() + 2
	waitFor(t, "the source of the PIN to be read", func() bool { return s.reads.Load() >= until })
}

// TestPINChangedUnderLoad changes the PIN in the token and in its source, in both orders, while
// callers sign and the connection is lost. No signature fails, and one wrong PIN at most is tried
// for each change.
func TestPINChangedUnderLoad(t *testing.T) {
	token.CheapHashes(t)
	f, cfg := newFaulty(t)
	source := newPINSource(t, &cfg)
	tok := open(t, cfg)
	l := startLoad(t, tok, generate(t, tok, hsm.EC_P256), generate(t, tok, hsm.RSA_2048))
	lose := func() {
		t.Helper()
		losses := tok.Stats().Losses
		f.CloseSessions()
		waitFor(t, "the loss to be noticed", func() bool { return tok.Stats().Losses > losses })
		l.waitForMore(64)
	}
	l.waitForMore(64)
	pin := cfg.PIN
	for round := range 4 {
		next := token.PIN(fmt.Sprintf("PIN%d", round))
		logins, losses := f.Calls("C_Login"), tok.Stats().Losses
		if round%2 == 0 {
			source.pin.Store(next)
			lose() // the token still has the old PIN
			inAnotherProcess(t, "change", string(pin), string(next))
		} else {
			inAnotherProcess(t, "change", string(pin), string(next))
			source.pin.Store(next)
		}
		lose()
		lose()
		// Each loss ends with one login that succeeds.
		if wrong := int64(f.Calls("C_Login")-logins) - (tok.Stats().Losses - losses); wrong != 1 {
			t.Errorf("change %d: %d attempts with a wrong PIN, want 1", round, wrong)
		}
		pin = next
	}
	l.end()
	if _, err := os.Stat(cfg.RefusedPINFile); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the record of refused PINs after good logins: %v, want none", err)
	}
	expectIntact(t, f)
}

// TestPINCorrected changes the PIN in the token only, and loses the connection. The Token waits
// without using the token until the source has another PIN, and tries each PIN once.
func TestPINCorrected(t *testing.T) {
	token.CheapHashes(t)
	f, cfg := newFaulty(t)
	source := newPINSource(t, &cfg)
	tok := open(t, cfg)
	key := generate(t, tok, hsm.EC_P256)
	inAnotherProcess(t, "change", string(cfg.PIN), "right")
	logins := f.Calls("C_Login")
	f.CloseSessions()
	expectRefused := func(tries int) {
		t.Helper()
		waitFor(t, "the PIN to be refused", func() bool {
			return errors.Is(tok.Health(t.Context()), hsm.ErrPIN) && f.Calls("C_Login")-logins == tries
		})
		initialized := f.Calls("C_Initialize")
		source.waitForReads(t)
		if err := signWithin(tok, key, 20*time.Second); !errors.Is(err, hsm.ErrUnavailable) || !errors.Is(err, hsm.ErrPIN) {
			t.Errorf("Sign after the PIN was refused: %v, want ErrUnavailable and ErrPIN", err)
		}
		if n := f.Calls("C_Initialize") - initialized; n != 0 || f.Calls("C_Login")-logins != tries {
			t.Errorf("the module was initialized %d times, and %d PINs tried, want 0 and %d", n, f.Calls("C_Login")-logins, tries)
		}
	}
	expectRefused(1)
	source.pin.Store(token.PIN("wrong"))
	expectRefused(2)
	source.pin.Store(cfg.PIN) // refused already
	expectRefused(2)
	source.pin.Store(token.PIN("right"))
	waitFor(t, "the right PIN to be used", func() bool { return tok.Health(t.Context()) == nil })
	expectSigns(t, tok, key)
	expectTried(t, f, logins, 3)
}

// TestClosedWhileWaiting closes a Token that waits for another PIN. The next process does not try
// the refused one.
func TestClosedWhileWaiting(t *testing.T) {
	token.CheapHashes(t)
	f, cfg := newFaulty(t)
	source := newPINSource(t, &cfg)
	tok := open(t, cfg)
	inAnotherProcess(t, "change", string(cfg.PIN), "right")
	f.CloseSessions()
	waitFor(t, "the PIN to be refused", func() bool { return errors.Is(tok.Health(t.Context()), hsm.ErrPIN) })
	source.waitForReads(t)
	closed := make(chan error)
	go func() { closed <- tok.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(60 * time.Second):
		t.Fatal("Close did not return")
	}
	logins := f.Calls("C_Login")
	if _, err := token.Open(cfg); !errors.Is(err, hsm.ErrPIN) {
		t.Errorf("Open with the refused PIN: %v, want ErrPIN", err)
	}
	expectTried(t, f, logins, 0)
	cfg.PIN = "right"
	open(t, cfg)
}

// expectTried checks how many PINs have been tried since there were so many logins.
func expectTried(t *testing.T, f *rig.Faults, logins, want int) {
	t.Helper()
	if tried := f.Calls("C_Login") - logins; tried != want {
		t.Errorf("%d PINs were tried, want %d", tried, want)
	}
}
