package token_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest/rig"
	"github.com/kmsgate/kmsgate/hsm/token"
)

// TestPINFlags makes a token report that wrong PINs were entered.
func TestPINFlags(t *testing.T) {
	f, cfg := newFaulty(t)
	open(t, cfg).Close() // provisions
	for _, flag := range []struct {
		name                      string
		flags                     uint
		start, insist, reconnects int // logins
	}{
		{"a wrong PIN was entered", pkcs11.CKF_USER_PIN_COUNT_LOW, 1, 1, 1},
		{"one try left", pkcs11.CKF_USER_PIN_FINAL_TRY, 0, 1, 1},
		{"locked", pkcs11.CKF_USER_PIN_LOCKED, 0, 0, 0},
	} {
		for insist, want := range map[bool]int{false: flag.start, true: flag.insist} {
			f.SetTokenFlags(flag.flags)
			cfg.InsistOnPIN = insist
			logins := f.Calls("C_Login")
			tok, err := token.Open(cfg)
			if err == nil {
				tok.Close()
			}
			if errors.Is(err, hsm.ErrPIN) != (want == 0) || f.Calls("C_Login")-logins != want {
				t.Errorf("%s, InsistOnPIN %v: %v after %d logins, want %d", flag.name, insist, err, f.Calls("C_Login")-logins, want)
			}
		}
		t.Run(flag.name, func(t *testing.T) { testFlagsAtReconnect(t, f, cfg, flag.flags, flag.reconnects) })
	}
}

// testFlagsAtReconnect sets the flags while the token is connected, and clears them after the
// Token has made as many attempts as it may. The Token heals.
func testFlagsAtReconnect(t *testing.T, f *rig.Faults, cfg token.Config, flags uint, attempts int) {
	f.SetTokenFlags(0)
	cfg.InsistOnPIN = false
	tok := open(t, cfg)
	key := generate(t, tok, hsm.EC_P256)
	logins := f.Calls("C_Login")
	f.SetTokenFlags(flags)
	f.CloseSessions()
	if attempts > 0 {
		expectSigns(t, tok, key)
	} else {
		waitFor(t, "the Token to withhold the PIN", func() bool { return errors.Is(tok.Health(t.Context()), hsm.ErrPIN) })
	}
	expectTried(t, f, logins, attempts)
	f.SetTokenFlags(0)
	waitFor(t, "the Token to heal", func() bool { return tok.Health(t.Context()) == nil })
	expectSigns(t, tok, key)
	expectTried(t, f, logins, 1)
}

// TestFinalTry has a token refuse the PIN that worked, and report that one more wrong PIN locks
// it. The Token does not try the PIN of the source, which may be wrong too, until the token has
// left that state.
func TestFinalTry(t *testing.T) {
	token.CheapHashes(t)
	f, cfg := newFaulty(t)
	source := newPINSource(t, &cfg)
	tok := open(t, cfg)
	key := generate(t, tok, hsm.EC_P256)
	inAnotherProcess(t, "change", string(cfg.PIN), "right")
	source.pin.Store(token.PIN("right"))
	logins := f.Calls("C_Login")
	f.SetTokenFlags(pkcs11.CKF_USER_PIN_FINAL_TRY)
	f.CloseSessions()
	waitFor(t, "the Token to withhold the PIN", func() bool {
		err := tok.Health(t.Context())
		return errors.Is(err, hsm.ErrPIN) && strings.Contains(err.Error(), "one more wrong PIN locks it")
	})
	expectTried(t, f, logins, 1)
	f.SetTokenFlags(0)
	waitFor(t, "the Token to heal", func() bool { return tok.Health(t.Context()) == nil })
	expectSigns(t, tok, key)
	expectTried(t, f, logins, 2)
}

// TestPINCodes makes the login fail with every error that refuses the PIN.
func TestPINCodes(t *testing.T) {
	for name, code := range map[string]uint{
		"incorrect":    pkcs11.CKR_PIN_INCORRECT,
		"invalid":      pkcs11.CKR_PIN_INVALID,
		"wrong length": pkcs11.CKR_PIN_LEN_RANGE,
		"expired":      pkcs11.CKR_PIN_EXPIRED,
		"locked":       pkcs11.CKR_PIN_LOCKED,
	} {
		t.Run(name, func(t *testing.T) {
			f, cfg := newFaulty(t)
			tok := open(t, cfg)
			key := generate(t, tok, hsm.EC_P256)
			logins := f.Calls("C_Login")
			f.Fail("C_Login", code, rig.Always)
			f.CloseSessions()
			err := signWithin(tok, key, 20*time.Second)
			if !errors.Is(err, hsm.ErrUnavailable) || !errors.Is(err, hsm.ErrPIN) || !errors.Is(err, pkcs11.Error(code)) {
				t.Errorf("Sign: %v, want ErrUnavailable, ErrPIN and the code", err)
			}
			tok.Close()
			if _, err := token.Open(cfg); !errors.Is(err, hsm.ErrPIN) {
				t.Errorf("Open: %v, want ErrPIN", err)
			}
			if tried := f.Calls("C_Login") - logins; tried != 2 {
				t.Errorf("%d logins, want 2: one at reconnecting and one by Open", tried)
			}
		})
	}
}

// TestNoRefusal makes the login fail with errors that say nothing about the PIN. The Token tries
// again.
func TestNoRefusal(t *testing.T) {
	for name, code := range map[string]uint{
		"not initialized": pkcs11.CKR_USER_PIN_NOT_INITIALIZED,
		"wrong user type": pkcs11.CKR_USER_TYPE_INVALID,
	} {
		t.Run(name, func(t *testing.T) {
			f, cfg := newFaulty(t)
			tok := open(t, cfg)
			key := generate(t, tok, hsm.EC_P256)
			f.Fail("C_Login", code, 5)
			f.CloseSessions()
			expectSigns(t, tok, key)
			expectInjected(t, f, "C_Login")
			tok.Close()
			f.Fail("C_Login", code, 1)
			if _, err := token.Open(cfg); !errors.Is(err, hsm.ErrUnavailable) || errors.Is(err, hsm.ErrPIN) {
				t.Errorf("Open: %v, want ErrUnavailable without ErrPIN", err)
			}
			open(t, cfg)
		})
	}
}
