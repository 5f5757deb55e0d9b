package token_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest/rig"
	"github.com/kmsgate/kmsgate/hsm/token"
)

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
	if tried := f.Calls("C_Login") - logins; tried != 1 {
		t.Errorf("the refused PIN was tried %d times, want 1", tried)
	}
}

// TestPINCodes makes the login fail with every error that retrying cannot solve.
func TestPINCodes(t *testing.T) {
	for name, code := range map[string]uint{
		"incorrect":       pkcs11.CKR_PIN_INCORRECT,
		"invalid":         pkcs11.CKR_PIN_INVALID,
		"wrong length":    pkcs11.CKR_PIN_LEN_RANGE,
		"expired":         pkcs11.CKR_PIN_EXPIRED,
		"locked":          pkcs11.CKR_PIN_LOCKED,
		"not initialized": pkcs11.CKR_USER_PIN_NOT_INITIALIZED,
		"wrong user type": pkcs11.CKR_USER_TYPE_INVALID,
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

// TestPINFlags makes a token report that a wrong PIN could lock it.
func TestPINFlags(t *testing.T) {
	f, cfg := newFaulty(t)
	open(t, cfg).Close() // provisions
	for _, flag := range []struct {
		name   string
		flags  uint
		logins int // with InsistOnPIN
	}{
		{"few tries left", pkcs11.CKF_USER_PIN_COUNT_LOW, 1},
		{"one try left", pkcs11.CKF_USER_PIN_FINAL_TRY, 1},
		{"locked", pkcs11.CKF_USER_PIN_LOCKED, 0},
	} {
		for insist, want := range map[bool]int{false: 0, true: flag.logins} {
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
		t.Run(flag.name, func(t *testing.T) { testFlagsAtReconnect(t, f, cfg, flag.flags) })
	}
}

// testFlagsAtReconnect sets the flags while the token is connected.
func testFlagsAtReconnect(t *testing.T, f *rig.Faults, cfg token.Config, flags uint) {
	f.SetTokenFlags(0)
	cfg.InsistOnPIN = false
	tok := open(t, cfg)
	logins := f.Calls("C_Login")
	f.SetTokenFlags(flags)
	f.CloseSessions()
	waitFor(t, "the token to stop reconnecting", func() bool {
		err := tok.Health(t.Context())
		return errors.Is(err, hsm.ErrPIN)
	})
	if tried := f.Calls("C_Login") - logins; tried != 0 {
		t.Errorf("the PIN was tried %d times, want 0", tried)
	}
}
