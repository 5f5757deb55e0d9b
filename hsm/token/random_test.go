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

func random(tok *token.Token, n int, d time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return tok.Random(ctx, n)
}

// expectRandom requires random bytes of who has time.
func expectRandom(t *testing.T, tok *token.Token, after string) {
	t.Helper()
	if out, err := random(tok, 100, 20*time.Second); err != nil || len(out) != 100 {
		t.Errorf("Random after %s: %d bytes, %v", after, len(out), err)
	}
}

// TestRandomRecovers has the token be lost, and fail once, while random bytes are made.
func TestRandomRecovers(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	key := generate(t, tok, hsm.EC_P256)
	for name, lose := range map[string]func(){
		"closed sessions":       f.CloseSessions,
		"a logout":              f.Logout, // which SoftHSM makes random bytes without
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
		expectUsed(t, f, "C_GenerateRandom")
		expectUsed(t, f, "C_SignInit")
	}
	f.Hang("C_GenerateRandom", 1)
	if out, err := random(tok, 16, 50*time.Millisecond); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("Random of a token that hangs: %x, %v, want ErrUnavailable", out, err)
	}
	f.Release()
	expectRandom(t, tok, "a hang")
	expectKept(t, f, tok, cfg, key)
}

// TestRandomRefused has a token be well and make no random bytes.
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
			t.Errorf("Random of a token that answers %#x: %x, %v, want %v", code, out, err, want)
		}
		f.Clear("C_GenerateRandom")
		expectRandom(t, tok, "refusals")
	}
	if n := tok.Stats().Losses; n != 0 {
		t.Errorf("%d connections were lost over it", n)
	}
	tok.Close()
	f.ClearTokenFlags(pkcs11.CKF_RNG)
	calls := f.Calls("C_GenerateRandom")
	if out, err := random(open(t, cfg), 16, 20*time.Second); !errors.Is(err, hsm.ErrNoRandom) || f.Calls("C_GenerateRandom") != calls {
		t.Errorf("Random of a token that says it has no generator: %x, %v, want ErrNoRandom, and no call", out, err)
	}
}

// TestRandomStuck has the token's generator repeat itself: one byte, without end, and
// from the beginning with each call.
func TestRandomStuck(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	withheld := func(n int) {
		t.Helper()
		out, err := random(tok, n, 20*time.Second)
		if out != nil || !errors.Is(err, hsm.ErrNoRandom) || errors.Is(err, hsm.ErrUnavailable) || !strings.Contains(err.Error(), "out of service") {
			t.Errorf("Random(%d) of a generator that is stuck: %x, %v, want ErrNoRandom that says what to do", n, out, err)
		}
	}
	for _, n := range []int{1, 16, 33, hsm.MaxRandom} {
		for _, b := range []byte{0, 0xff, 0x55} {
			f.Fill("C_GenerateRandom", b, 0, 1)
			withheld(n)
			expectRandom(t, tok, "one byte without end")
		}
		f.Fill("C_GenerateRandom", 0, 16, 1) // a block of 16 bytes without end
		if n > 16 {
			withheld(n)
		}
		f.Clear("C_GenerateRandom")
	}
	f.Fill("C_GenerateRandom", 3, 1, 1) // nobody can tell the first time
	expectRandom(t, tok, "the first of the same bytes")
	for _, n := range []int{1, 16, hsm.MaxRandom} {
		f.CloseSessions() // the next connection knows of them, too
		f.Fill("C_GenerateRandom", 3, 1, 1)
		withheld(n)
		expectRandom(t, tok, "the same bytes again")
	}
	expectWhole(t, f)
}
