package token_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest/rig"
	"github.com/kmsgate/kmsgate/hsm/token"
)

// TestOneCallAtATime makes the key generation call hang, in a module that does one call at a time.
// Callers get an error that says so at once, and nothing ends the process.
func TestOneCallAtATime(t *testing.T) {
	o := openOverlap(t, token.Config{WatchEvery: 250 * time.Millisecond})
	o.faults.Serialize()
	o.hangGenerate()
	o.expectTold("the token does one call at a time")
	for range 3 {
		o.expectOccupied()
	}
	o.release()
	if err := signWithin(o.tok, o.key, 20*time.Second); err != nil {
		t.Errorf("Sign after the key was made: %v", err)
	}
	if s := o.tok.Stats(); s.Losses != 0 || !s.OneAtATime {
		t.Errorf("afterwards: %+v, want no loss, and OneAtATime", s)
	}
	expectIntact(t, o.faults)
}

// TestSeveralCallsAtATime makes the key generation call hang, in a module that signs at the same time.
func TestSeveralCallsAtATime(t *testing.T) {
	o := openOverlap(t, token.Config{WatchEvery: 250 * time.Millisecond})
	l := startLoad(t, o.tok, o.key)
	o.hangGenerate()
	o.expectTold("the token signs while it makes a key")
	l.waitForMore(64)
	l.end()
	if o.tok.Stats().OneAtATime {
		t.Error("OneAtATime is true, but the token signed while it made a key")
	}
	o.release()
	expectIntact(t, o.faults)
}

// TestCanaryHangsWhileKeyIsMade makes a canary signature hang, so that the module seems to do one call at a
// time. The next key shows that it does several.
func TestCanaryHangsWhileKeyIsMade(t *testing.T) {
	o := openOverlap(t, token.Config{WatchEvery: time.Hour}) // so that nothing else uses the token
	o.faults.Hang("C_SignInit", 1)
	o.hangGenerate()
	o.expectTold("the token does one call at a time")
	o.expectOccupied()
	o.release()
	o.hangGenerate()
	o.expectTold("the token signs while it makes a key, after all")
	if err := signWithin(o.tok, o.key, 20*time.Second); err != nil || o.tok.Stats().OneAtATime {
		t.Errorf("Sign while the next key is made: %v; %+v, want no error and not OneAtATime", err, o.tok.Stats())
	}
	o.release()
	expectIntact(t, o.faults)
}

// TestOnlyCanaryHangs makes a canary signature hang while a key is made. Other signatures show that the module
// does several calls at a time.
func TestOnlyCanaryHangs(t *testing.T) {
	o := openOverlap(t, token.Config{WatchEvery: time.Hour})
	o.faults.Hang("C_SignInit", 1)
	o.hangGenerate()
	waitFor(t, "the canary signature to hang", func() bool { return o.faults.Pending("C_SignInit") == 0 })
	l := startLoad(t, o.tok, o.key)
	o.expectTold("the token signs while it makes a key")
	l.end()
	if o.tok.Stats().OneAtATime {
		t.Error("OneAtATime is true, but the token signed while it made a key")
	}
	o.release()
	expectIntact(t, o.faults)
}

// TestKeyIsNeverMade makes a canary signature and the generation of a key hang, the key beyond its limit. The
// watchdog does not need the session that hangs, callers can sign again, and other keys can be made.
func TestKeyIsNeverMade(t *testing.T) {
	o := openOverlap(t, token.Config{WatchEvery: time.Hour, GenerateAfter: 8 * time.Second})
	o.faults.Hang("C_SignInit", 1)
	o.hangGenerate()
	o.expectTold("the token does one call at a time")
	signed := o.faults.Calls("C_Sign")
	waitFor(t, "the watchdog's signatures", func() bool { return o.faults.Calls("C_Sign") > signed+4 })
	waitFor(t, "a caller's signature", func() bool { return signWithin(o.tok, o.key, 20*time.Second) == nil })
	if _, err := o.tok.Generate(t.Context(), hsm.RSA_4096, bytes.Repeat([]byte{8}, 16)); err != nil {
		t.Errorf("Generate of another key: %v", err)
	}
	o.release()
	expectIntact(t, o.faults)
}

// An overlapTest is a token whose making of keys hangs. OnHang must not be called.
type overlapTest struct {
	t      *testing.T
	faults *rig.Faults
	tok    *token.Token
	key    hsm.Key
	logged chan string // the messages
	made   chan error  // gets the result of hangGenerate's key
}

// openOverlap opens a token with the intervals and limits of c.
func openOverlap(t *testing.T, c token.Config) *overlapTest {
	t.Helper()
	f, cfg := newFaulty(t)
	o := &overlapTest{t: t, faults: f, logged: make(chan string, 1000), made: make(chan error, 1)}
	cfg.Logger = logTo(func(message string) {
		select {
		case o.logged <- message:
		default:
		}
	})
	cfg.WatchEvery, cfg.HangAfter, cfg.GenerateAfter = c.WatchEvery, time.Second, c.GenerateAfter
	cfg.OnHang = func(err error) { t.Errorf("OnHang(%v)", err) }
	o.tok = open(t, cfg)
	o.key = generate(t, o.tok, hsm.EC_P256)
	return o
}

// hangGenerate makes a key in a call that hangs.
func (o *overlapTest) hangGenerate() {
	o.t.Helper()
	o.faults.Hang("C_GenerateKeyPair", 1)
	go func() {
		id := make([]byte, 16)
		rand.Read(id)
		_, err := o.tok.Generate(o.t.Context(), hsm.EC_P256, id)
		o.made <- err
	}()
	waitFor(o.t, "the call to hang", func() bool { return o.faults.Pending("C_GenerateKeyPair") == 0 })
}

// release ends hangGenerate's call.
func (o *overlapTest) release() {
	o.t.Helper()
	o.faults.Release()
	if err := <-o.made; err != nil {
		o.t.Errorf("Generate with a call that hung: %v", err)
	}
}

// expectTold waits until a message with a text is logged.
func (o *overlapTest) expectTold(text string) {
	o.t.Helper()
	for deadline := time.After(time.Minute); ; {
		select {
		case message := <-o.logged:
			if strings.Contains(message, text) {
				return
			}
		case <-deadline:
			o.t.Fatalf("the log does not say: %s", text)
		}
	}
}

// expectOccupied expects errors before the caller's deadline that name the call that hangs.
func (o *overlapTest) expectOccupied() {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(o.t.Context(), time.Minute)
	defer cancel()
	for name, err := range map[string]error{"Sign": sign(ctx, o.tok, o.key), "Health": o.tok.Health(ctx)} {
		if !errors.Is(err, hsm.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) ||
			!strings.Contains(err.Error(), "C_GenerateKeyPair") {
			o.t.Errorf("%s while a key is made: %v, want ErrUnavailable with the call, before the deadline", name, err)
		}
	}
	if !o.tok.Stats().OneAtATime {
		o.t.Error("OneAtATime is false")
	}
}
