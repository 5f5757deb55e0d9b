package appliance_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/internal/appliance"
)

// expectWrites expects n writes of the counter since the last call.
func (f fixture) expectWrites(t *testing.T, event string, n int) {
	t.Helper()
	synctest.Wait()
	f.counter.mu.Lock()
	defer f.counter.mu.Unlock()
	if got := len(f.counter.writes) - f.counter.expected; got != n {
		t.Errorf("%s: got %d writes of the number to the token, want %d", event, got, n)
	}
	f.counter.expected = len(f.counter.writes)
}

// TestCounterWear checks when the gateway writes the number to the token: at most once an hour, however often it
// starts, and at a clean stop after a line of the audit log.
func TestCounterWear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := initialized(t)
		f.expectWrites(t, "init", 1)
		for range 3 {
			closeNow(t, f.open(t, f.options(t)))
		}
		f.expectWrites(t, "starts and stops within the hour", 0)
		for i := range 3 {
			a := f.open(t, f.options(t))
			createUser(t, a, fmt.Sprintf("u%d", i))
			closeNow(t, a)
			f.expectWrites(t, "a stop after a change", 1)
			if n, _, _ := f.counter.Counter(t.Context()); n != a.Store.Now().Number() {
				t.Errorf("the token has the number %d after a stop, want %d", n, a.Store.Now().Number())
			}
		}
		a := f.open(t, f.options(t))
		if err := a.Server.Call(t.Context(), "ListUsers", nil, nil); err != nil {
			t.Fatal(err)
		}
		closeNow(t, a)
		f.expectWrites(t, "a stop after a line of the audit log", 1)

		time.Sleep(30 * time.Minute)
		a = f.open(t, f.options(t))
		createUser(t, a, "hourly")
		f.expectWrites(t, "a start half an hour after the last write", 0)
		time.Sleep(29 * time.Minute)
		f.expectWrites(t, "59 minutes after the last write", 0)
		time.Sleep(2 * time.Minute)
		f.expectWrites(t, "an hour after the last write", 1)
		time.Sleep(5 * time.Hour)
		f.expectWrites(t, "five hours without a change", 0)
		createUser(t, a, "hourly-2")
		time.Sleep(time.Hour)
		f.expectWrites(t, "an hour with a change", 1)
		closeNow(t, a)
	})
}

// TestCounterOfKilled kills a gateway again and again before it has served for an hour. The number is still
// written every hour.
func TestCounterOfKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := initialized(t)
		f.expectWrites(t, "init", 1)
		for i := range 12 { // more than four hours
			a := f.open(t, f.options(t))
			createUser(t, a, fmt.Sprintf("u%d", i))
			time.Sleep(21 * time.Minute)
			synctest.Wait()
			f.kill(t, a)
		}
		f.expectWrites(t, "four hours", 4)
	})
}

// An archiver makes a backup that takes two hours.
type archiver struct{}

func (archiver) Check([]string) error { return nil }

func (archiver) Archive(context.Context, gateway.Backup) (gateway.Archive, error) {
	time.Sleep(2 * time.Hour)
	return archive{new(bytes.Buffer)}, nil
}

type archive struct{ io.WriterTo }

func (archive) Close() error { return nil }

// TestCounterDuringBackup tests that nothing is written to the token while a backup copies it.
func TestCounterDuringBackup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := initialized(t)
		o := f.options(t)
		o.Archiver = func(*appliance.Appliance) gateway.Archiver { return archiver{} }
		a := f.open(t, o)
		createUser(t, a, "u")
		f.expectWrites(t, "init and start", 1)
		made := make(chan error, 1)
		go func() {
			made <- a.Server.Stream(t.Context(), "CreateBackup", map[string]string{"Recipients": `["r"]`}, io.Discard)
		}()
		time.Sleep(2*time.Hour - time.Second)
		f.expectWrites(t, "during a backup", 0)
		if err := <-made; err != nil {
			t.Error(err)
		}
		f.expectWrites(t, "after the backup", 1)
		closeNow(t, a)
	})
}
