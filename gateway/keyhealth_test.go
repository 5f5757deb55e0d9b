package gateway_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/store"
)

// running runs the background tasks of the gateway until stop is called.
func (b *bench) running() (stop func()) {
	ctx, cancel := context.WithCancel(b.t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b.server.Run(ctx)
	}()
	return func() {
		cancel()
		<-ended
	}
}

// A logBuffer is a log that can be read while it is written.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBuffer) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}

// line returns the first line with a text, or nothing if there is none.
func (l *logBuffer) line(text string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		if strings.Contains(line, text) {
			return line
		}
	}
	return ""
}

// A slowBackend signs slowly, and records when it was called.
type slowBackend struct {
	*hsmtest.Fake
	signTime time.Duration

	mu    sync.Mutex
	calls []time.Time // of Sign; guarded by mu
	away  bool        // the token is unavailable; guarded by mu

	refusedID string // the ID of a key that the token, which works, refuses to sign with
}

func (s *slowBackend) Health(ctx context.Context) error {
	if s.isAway() {
		return hsm.ErrUnavailable
	}
	return s.Fake.Health(ctx)
}

func (s *slowBackend) Has(k hsm.Key) error {
	if s.isAway() {
		return hsm.ErrUnavailable
	}
	return s.Fake.Has(k)
}

func (s *slowBackend) isAway() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.away
}

func (s *slowBackend) setAway(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = away
}

func (s *slowBackend) Sign(ctx context.Context, k hsm.Key, alg hsm.Algorithm, digest []byte) ([]byte, error) {
	s.mu.Lock()
	s.calls = append(s.calls, time.Now())
	s.mu.Unlock()
	time.Sleep(s.signTime) // on the bubble's clock
	if string(k.ID) == s.refusedID {
		return nil, hsm.ErrRefused
	}
	return s.Fake.Sign(ctx, k, alg, digest)
}

func (s *slowBackend) signCalls() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]time.Time(nil), s.calls...)
}

// plainBench starts a gateway without a listener, because the clock of a bubble stands still while
// a goroutine waits for a network connection.
func plainBench(t *testing.T, keys int, change ...func(*gateway.Config)) (*bench, *slowBackend, *logBuffer) {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), backend: new(hsmtest.Fake)}
	b.clock.now = time.Now()
	slow, log := &slowBackend{Fake: b.backend, signTime: 10 * time.Millisecond}, new(logBuffer)
	b.open(append(change, func(c *gateway.Config) {
		c.Backend, c.Logger = slow, slog.New(slog.NewTextHandler(log, nil))
	})...)
	t.Cleanup(b.shut)
	for range keys {
		b.local("CreateKey", nil, "KeySpec", "EC_P256")
	}
	return b, slow, log
}

// everyRecord returns the records of all versions.
func (b *bench) everyRecord() (all []store.KeyVersion) {
	records := b.db.Now()
	for k := range records.Keys().All() {
		all = append(all, records.VersionsOf(k.KeyId)...)
	}
	return all
}

// TestMissingKeys removes private keys from the token. The first check must report them and name
// the first ten. After they are restored, the check an hour later must report none.
func TestMissingKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, slow, log := plainBench(t, 14)
		all := b.everyRecord()
		var restore []func()
		for _, v := range all[:12] {
			restore = append(restore, b.backend.Lose(v.Key))
		}
		slow.setAway(true)
		stop := b.running()
		defer stop()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := b.metric("kmsgate_key_versions_missing"); got != "0" || log.count("missing") != 0 {
			t.Errorf("while the token is unavailable: got %s keys missing, want 0 and no log line", got)
		}
		slow.setAway(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := b.metric("kmsgate_key_versions_missing"); got != "12" {
			t.Errorf("got %s keys missing, want 12", got)
		}
		line, named := log.line("missing=12"), 0
		for _, v := range all[:12] {
			named += strings.Count(line, v.KeyId+"/"+v.KeyVersionId)
		}
		if named != 10 || log.count("missing=12") != 1 || !strings.Contains(line, "kmsgate doctor") {
			t.Errorf("got the line %q, want one with the number, ten names and kmsgate doctor", line)
		}
		for _, f := range restore {
			f()
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := b.metric("kmsgate_key_versions_missing"); got != "0" {
			t.Errorf("an hour after the keys were restored: got %s missing, want 0", got)
		}
	})
}

// TestSelfTest checks that every version makes a test signature after a start, which takes at most
// a tenth of the time, and that versions are found that do not sign or sign with another key.
func TestSelfTest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, slow, log := plainBench(t, 5)
		all := b.everyRecord()
		b.backend.Lose(all[1].Key)
		b.backend.Swap(all[3].Key, all[4].Key)
		before := len(slow.signCalls())
		stop := b.running()
		defer stop()
		time.Sleep(10 * time.Hour)
		synctest.Wait()
		calls := slow.signCalls()[before:]
		const swapped = 2 // their signatures are invalid, so each is retried once without waiting
		if len(calls) != 5+swapped {
			t.Fatalf("got %d test signatures, want %d", len(calls), 5+swapped)
		}
		hurried := 0
		for i := range calls[1:] {
			if calls[i+1].Sub(calls[i]) < 100*time.Millisecond {
				hurried++
			}
		}
		if hurried != swapped {
			t.Errorf("got %d test signatures within 100 ms of the last one, want %d", hurried, swapped)
		}
		if got := b.metric("kmsgate_key_versions_failing"); got != "3" {
			t.Errorf("got %s keys failing, want 3", got)
		}
		for _, v := range []store.KeyVersion{all[1], all[3], all[4]} {
			if log.count("failed its test signature (run kmsgate doctor)\" KeyId="+v.KeyId) != 1 {
				t.Errorf("got no log line that names key %s, want one", v.KeyId)
			}
		}
		if n := len(b.backend.Forgotten()); n != 5 {
			t.Errorf("got %d versions forgotten after their test, want all 5", n)
		}
		// A version that signs again, for whatever reason, must no longer count.
		b.backend.Swap(all[3].Key, all[4].Key)
		b.local("TestKeyVersion", nil, "KeyId", all[3].KeyId, "KeyVersionId", all[3].KeyVersionId)
		if got := b.metric("kmsgate_key_versions_failing"); got != "2" {
			t.Errorf("after one signs again: got %s keys failing, want 2", got)
		}
	})
}

// TestRefusedKey has a token that works but refuses one key. Only this key must count as failing,
// and the keys after it must be tested.
func TestRefusedKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, slow, log := plainBench(t, 3)
		all := b.everyRecord()
		slow.refusedID = string(all[1].Key.ID)
		before := len(slow.signCalls())
		stop := b.running()
		defer stop()
		time.Sleep(time.Hour)
		synctest.Wait()
		if n, got := len(slow.signCalls())-before, b.metric("kmsgate_key_versions_failing"); n != 3 || got != "1" {
			t.Errorf("got %d test signatures and %s keys failing, want 3 and 1", n, got)
		}
		if log.count("failed its test signature (run kmsgate doctor)\" KeyId="+all[1].KeyId) != 1 {
			t.Errorf("got no log line that names key %s, want one", all[1].KeyId)
		}
		err := b.server.Call(t.Context(), "TestKeyVersion", params("KeyId", all[1].KeyId, "KeyVersionId", all[1].KeyVersionId), nil)
		if err == nil || !strings.Contains(err.Error(), "Rejected.Unavailable") || !strings.Contains(err.Error(), "rejected") {
			t.Errorf("TestKeyVersion: got error %v, want Rejected.Unavailable with the reason", err)
		}
	})
}

// TestSelfTestWaits has no token at the start. No key must count as failing, and the tests must be
// made when the token is available again.
func TestSelfTestWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, slow, _ := plainBench(t, 3)
		before := len(slow.signCalls())
		slow.setAway(true)
		stop := b.running()
		defer stop()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(slow.signCalls()) - before; n != 0 {
			t.Errorf("without a token: got %d test signatures, want 0", n)
		}
		slow.setAway(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n, got := len(slow.signCalls())-before, b.metric("kmsgate_key_versions_failing"); n != 3 || got != "0" {
			t.Errorf("got %d test signatures and %s keys failing, want 3 and 0", n, got)
		}
	})
}

// TestFailingIsForgotten checks that a deleted key no longer counts as failing.
func TestFailingIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _, _ := plainBench(t, 1)
		v := b.everyRecord()[0]
		b.backend.Lose(v.Key)
		err := b.server.Call(t.Context(), "TestKeyVersion", params("KeyId", v.KeyId, "KeyVersionId", v.KeyVersionId), nil)
		if err == nil {
			t.Fatal("TestKeyVersion of a lost key: got no error")
		}
		if got := b.metric("kmsgate_key_versions_failing"); got != "1" {
			t.Errorf("got %s keys failing, want 1", got)
		}
		if err := b.db.Update(func(tx *store.Tx) error { return tx.Keys().Delete(v.KeyId) }); err != nil {
			t.Fatal(err)
		}
		stop := b.running()
		defer stop()
		time.Sleep(time.Minute)
		synctest.Wait()
		for _, name := range []string{"kmsgate_key_versions_failing", "kmsgate_key_versions_missing"} {
			if got := b.metric(name); got != "0" {
				t.Errorf("%s: got %s after the key was deleted, want 0", name, got)
			}
		}
	})
}
