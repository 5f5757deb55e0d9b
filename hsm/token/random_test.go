package token_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest/rig"
	"github.com/kmsgate/kmsgate/hsm/token"
)

// random calls Random with the time limit d.
func random(tok *token.Token, n int, d time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return tok.Random(ctx, n)
}

// expectRandom requires random bytes within 20 s.
func expectRandom(t *testing.T, tok *token.Token, after string) {
	t.Helper()
	if out, err := random(tok, 100, 20*time.Second); err != nil || len(out) != 100 {
		t.Errorf("Random after %s: %d bytes, %v", after, len(out), err)
	}
}

// TestRandomRecovers loses the token, or makes it fail once, while it makes random bytes.
func TestRandomRecovers(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	key := generate(t, tok, hsm.EC_P256)
	for name, lose := range map[string]func(){
		"closed sessions":       f.CloseSessions,
		"a logout":              f.Logout, // SoftHSM makes random bytes without a login
		"a reinitialized token": f.Reinitialize,
		"one failure":           func() { f.Fail("C_GenerateRandom", pkcs11.CKR_FUNCTION_FAILED, 1) },
		"a lost device": func() {
			f.Fail("C_SignInit", pkcs11.CKR_DEVICE_REMOVED, 1)
			f.Fail("C_GenerateRandom", pkcs11.CKR_DEVICE_REMOVED, 1)
		},
		"a lost device that has no generator": func() {
			f.Fail("C_SignInit", pkcs11.CKR_DEVICE_REMOVED, 2)
			f.Fail("C_GenerateRandom", pkcs11.CKR_RANDOM_NO_RNG, 1)
		},
	} {
		lose()
		expectRandom(t, tok, name)
		expectInjected(t, f, "C_GenerateRandom")
		expectInjected(t, f, "C_SignInit")
	}
	f.Hang("C_GenerateRandom", 1)
	if out, err := random(tok, 16, 50*time.Millisecond); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("Random with a hanging token: %x, %v, want ErrUnavailable", out, err)
	}
	f.Release()
	expectRandom(t, tok, "a hang")
	expectReopened(t, f, tok, cfg, key)
}

// TestRandomRefused makes a working token reject requests for random bytes.
func TestRandomRefused(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	for code, want := range map[uint]error{
		pkcs11.CKR_FUNCTION_FAILED:        hsm.ErrRefused,
		pkcs11.CKR_RANDOM_NO_RNG:          hsm.ErrNoRandom,
		pkcs11.CKR_FUNCTION_NOT_SUPPORTED: hsm.ErrNoRandom,
	} {
		f.Fail("C_GenerateRandom", code, rig.Always)
		out, err := random(tok, 16, 20*time.Second)
		if !errors.Is(err, want) || want == hsm.ErrNoRandom && errors.Is(err, hsm.ErrUnavailable) {
			t.Errorf("Random with a token that returns %#x: %x, %v, want %v", code, out, err, want)
		}
		f.Clear("C_GenerateRandom")
		expectRandom(t, tok, "refusals")
	}
	if n := tok.Stats().Losses; n != 0 {
		t.Errorf("%d connection losses, want 0", n)
	}
	tok.Close()
	f.ClearTokenFlags(pkcs11.CKF_RNG)
	calls := f.Calls("C_GenerateRandom")
	out, err := random(open(t, cfg), 16, 20*time.Second)
	if !errors.Is(err, hsm.ErrNoRandom) || f.Calls("C_GenerateRandom") != calls {
		t.Errorf("Random with a token that reports no generator: %x, %v, want ErrNoRandom without a call", out, err)
	}
}

// TestRandomStuck makes the token's generator repeat one byte, repeat one block, and restart
// with each call.
func TestRandomStuck(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	withheld := func(n int) {
		t.Helper()
		out, err := random(tok, n, 20*time.Second)
		if out != nil || !errors.Is(err, hsm.ErrNoRandom) || errors.Is(err, hsm.ErrUnavailable) ||
			!strings.Contains(err.Error(), "out of service") {
			t.Errorf("Random(%d) with a stuck generator: %x, %v, want ErrNoRandom with advice", n, out, err)
		}
	}
	for _, n := range []int{1, 16, 33, hsm.MaxRandom} {
		for _, b := range []byte{0, 0xff, 0x55} {
			f.Fill("C_GenerateRandom", b, 0, 1)
			withheld(n)
			expectRandom(t, tok, "repeating one byte")
		}
		f.Fill("C_GenerateRandom", 0, 16, 1) // repeats a block of 16 bytes
		if n > 16 {
			withheld(n)
		}
		f.Clear("C_GenerateRandom")
	}
	f.Fill("C_GenerateRandom", 3, 1, 1) // the first time, the bytes cannot be recognized
	expectRandom(t, tok, "the first output")
	for _, n := range []int{1, 16, hsm.MaxRandom} {
		f.CloseSessions() // the next connection remembers them too
		f.Fill("C_GenerateRandom", 3, 1, 1)
		withheld(n)
		expectRandom(t, tok, "a repeated output")
	}
	expectIntact(t, f)
}
