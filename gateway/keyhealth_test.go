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

// running runs the bench's books until the test ends.
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

// A logbook is a log that can be read while it is written.
type logbook struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logbook) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), what)
}

// A slowBackend takes its time to sign, and remembers when it was asked to.
type slowBackend struct {
	*hsmtest.Fake
	takes time.Duration

	mu   sync.Mutex
	asks []time.Time // guarded by mu
	away bool        // guarded by mu: the token is not there

	refuses string // the ID of a key that the token, which is well, will not sign with
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
	s.asks = append(s.asks, time.Now())
	s.mu.Unlock()
	time.Sleep(s.takes) // of the bubble's time
	if string(k.ID) == s.refuses {
		return nil, hsm.ErrRefused
	}
	return s.Fake.Sign(ctx, k, alg, digest)
}

func (s *slowBackend) asked() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]time.Time(nil), s.asks...)
}

// plainBench starts a gateway without a listener: what happens on a connection
// does not let a bubble's time go on.
func plainBench(t *testing.T, keys int, change ...func(*gateway.Config)) (*bench, *slowBackend, *logbook) {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), backend: new(hsmtest.Fake)}
	b.clock.now = time.Now()
	slow, log := &slowBackend{Fake: b.backend, takes: 10 * time.Millisecond}, new(logbook)
	b.open(append(change, func(c *gateway.Config) {
		c.Backend, c.Logger = slow, slog.New(slog.NewTextHandler(log, nil))
	})...)
	t.Cleanup(b.shut)
	for range keys {
		b.local("CreateKey", nil, "KeySpec", "EC_P256")
	}
	return b, slow, log
}

// everyRecord gives every version's record.
func (b *bench) everyRecord() (all []store.KeyVersion) {
	records := b.db.Now()
	for k := range records.Keys().All() {
		all = append(all, records.VersionsOf(k.KeyId)...)
	}
	return all
}

// TestMissingKeys loses private keys: the first look says so, naming the first
// ten, and when they are back an hour later the next one says that.
func TestMissingKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, slow, log := plainBench(t, 14)
		all := b.everyRecord()
		var putBack []func()
		for _, v := range all[:12] {
			putBack = append(putBack, b.backend.Lose(v.Key))
		}
		slow.setAway(true)
		stop := b.running()
		defer stop()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := b.metric("kmsgate_key_versions_missing"); got != "0" || log.count("missing") != 0 {
			t.Errorf("while the token is away %s keys are said to be missing", got)
		}
		slow.setAway(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := b.metric("kmsgate_key_versions_missing"); got != "12" {
			t.Errorf("%s keys are missing, want 12", got)
		}
		if n := log.count("private key is missing"); n != 10 {
			t.Errorf("%d were named in the log, want 10", n)
		}
		if log.count("missing=12") != 1 || log.count("KeyId="+all[0].KeyId+" KeyVersionId="+all[0].KeyVersionId) == 0 || log.count("kmsgate doctor") == 0 {
			t.Errorf("the log does not say what it has to:\n%s", &log.text)
		}
		for _, f := range putBack {
			f()
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := b.metric("kmsgate_key_versions_missing"); got != "0" {
			t.Errorf("%s keys are missing when they are back, an hour later", got)
		}
	})
}

// TestSelfTest has every version sign once after a start, in a tenth of the
// time, and finds those that do not or do it with another's key.
func TestSelfTest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, slow, log := plainBench(t, 5)
		all := b.everyRecord()
		b.backend.Lose(all[1].Key)
		b.backend.Swap(all[3].Key, all[4].Key)
		before := len(slow.asked())
		stop := b.running()
		defer stop()
		time.Sleep(10 * time.Hour)
		synctest.Wait()
		asks := slow.asked()[before:]
		const swapped = 2 // their signatures do not verify, so each is asked for once more, at once
		if len(asks) != 5+swapped {
			t.Fatalf("%d test signatures, want %d", len(asks), 5+swapped)
		}
		hurried := 0
		for i := range asks[1:] {
			if asks[i+1].Sub(asks[i]) < 100*time.Millisecond {
				hurried++
			}
		}
		if hurried != swapped {
			t.Errorf("%d test signatures of 10ms did not wait for a tenth of the time, want %d", hurried, swapped)
		}
		if got := b.metric("kmsgate_key_versions_failing"); got != "3" {
			t.Errorf("%s keys are failing, want 3", got)
		}
		for _, v := range []store.KeyVersion{all[1], all[3], all[4]} {
			if log.count("failed its test signature (run kmsgate doctor)\" KeyId="+v.KeyId) != 1 {
				t.Errorf("the log does not name %s", v.KeyId)
			}
		}
		if n := len(b.backend.Forgotten()); n != 5 {
			t.Errorf("%d versions were forgotten after their test, want all 5", n)
		}
		// One that signs again, for whatever reason, is no longer counted.
		b.backend.Swap(all[3].Key, all[4].Key)
		b.local("TestKeyVersion", nil, "KeyId", all[3].KeyId, "KeyVersionId", all[3].KeyVersionId)
		if got := b.metric("kmsgate_key_versions_failing"); got != "2" {
			t.Errorf("%s keys are failing, one signs again: want 2", got)
		}
	})
}

// TestRefusedKey has a token that is well and refuses one key: that is the key's
// failure, and those behind it have their turn.
func TestRefusedKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, slow, log := plainBench(t, 3)
		all := b.everyRecord()
		slow.refuses = string(all[1].Key.ID)
		before := len(slow.asked())
		stop := b.running()
		defer stop()
		time.Sleep(time.Hour)
		synctest.Wait()
		if n, got := len(slow.asked())-before, b.metric("kmsgate_key_versions_failing"); n != 3 || got != "1" {
			t.Errorf("%d test signatures, %s failing: want 3 and 1", n, got)
		}
		if log.count("failed its test signature (run kmsgate doctor)\" KeyId="+all[1].KeyId) != 1 {
			t.Errorf("the log does not name %s", all[1].KeyId)
		}
		err := b.server.Call(t.Context(), "TestKeyVersion", params("KeyId", all[1].KeyId, "KeyVersionId", all[1].KeyVersionId), nil)
		if err == nil || !strings.Contains(err.Error(), "Rejected.Unavailable") || !strings.Contains(err.Error(), "refuses") {
			t.Errorf("TestKeyVersion: %v, want the reason", err)
		}
	})
}

// TestSelfTestWaits has no token at the start: nothing is held against a key, and
// the tests are made when it is back.
func TestSelfTestWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, slow, _ := plainBench(t, 3)
		before := len(slow.asked())
		slow.setAway(true)
		stop := b.running()
		defer stop()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(slow.asked()) - before; n != 0 {
			t.Errorf("%d test signatures without a token", n)
		}
		slow.setAway(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n, got := len(slow.asked())-before, b.metric("kmsgate_key_versions_failing"); n != 3 || got != "0" {
			t.Errorf("%d test signatures, %s failing: want 3 and 0", n, got)
		}
	})
}

// TestFailingIsForgotten: what is deleted does not fail any more.
func TestFailingIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _, _ := plainBench(t, 1)
		v := b.everyRecord()[0]
		b.backend.Lose(v.Key)
		if err := b.server.Call(t.Context(), "TestKeyVersion", params("KeyId", v.KeyId, "KeyVersionId", v.KeyVersionId), nil); err == nil {
			t.Fatal("a lost key signs")
		}
		if got := b.metric("kmsgate_key_versions_failing"); got != "1" {
			t.Errorf("%s keys are failing, want 1", got)
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
				t.Errorf("%s is %s of a key that is deleted", name, got)
			}
		}
	})
}
