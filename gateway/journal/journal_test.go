package journal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/journal"
	"github.com/kmsgate/kmsgate/store"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// A bench is a journal with its store and its log. A second one can take its directory
// over.
type bench struct {
	*journal.Journal
	t   testing.TB
	dir string
	db  *store.Store
	log *audit.Log
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir()}
	b.start()
	t.Cleanup(b.stop)
	return b
}

func (b *bench) start() {
	b.t.Helper()
	var err error
	if b.db, err = store.Open(filepath.Join(b.dir, "db")); err != nil {
		b.t.Fatal(err)
	}
	if b.log, err = audit.Open(audit.Config{Path: b.logPath(), Logger: quiet}); err != nil {
		b.t.Fatal(err)
	}
	if b.Journal, err = journal.Open(b.db, b.log, quiet); err != nil {
		b.t.Fatal(err)
	}
}

// stop ends without flushing anything, as a kill would.
func (b *bench) stop() {
	b.log.Close()
	b.db.Close()
}

func (b *bench) logPath() string { return filepath.Join(b.dir, "audit.log") }

func entry(requestId string) audit.Entry {
	return audit.Entry{RequestId: requestId, Action: "CreateAlias", Status: 200}
}

// put makes a change that can be told by its id.
func put(id string) func(tx *store.Tx) error {
	return func(tx *store.Tx) error { return tx.Users().Put(store.User{UserName: id}) }
}

// change makes a change and appends its line.
func (b *bench) change(id string) {
	b.t.Helper()
	if err := errors.Join(b.Update(entry(id), put(id)), b.Append(entry(id))); err != nil {
		b.t.Fatal(err)
	}
}

// outbox returns the RequestIds in the outbox.
func (b *bench) outbox() (ids []string) {
	for o := range b.db.Now().Outbox().All() {
		ids = append(ids, o.RequestId)
	}
	return ids
}

// lines returns the log's lines about requests, as "id" or "id late".
func (b *bench) lines() (lines []string) {
	b.t.Helper()
	content, err := os.ReadFile(b.logPath())
	if err != nil {
		b.t.Fatal(err)
	}
	err = audit.Read(bytes.NewReader(content), func(l audit.Line) error {
		switch {
		case l.Entry == nil:
		case l.Entry.Late:
			lines = append(lines, l.Entry.RequestId+" late")
		default:
			lines = append(lines, l.Entry.RequestId)
		}
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return lines
}

func (b *bench) check(when string, outbox, lines []string) {
	b.t.Helper()
	if got := b.outbox(); !slices.Equal(got, outbox) {
		b.t.Errorf("%s: the outbox has %q, want %q", when, got, outbox)
	}
	if got := b.lines(); !slices.Equal(got, lines) {
		b.t.Errorf("%s: the log has %q, want %q", when, got, lines)
	}
}

// takeLog takes the log's file away.
func (b *bench) takeLog() (putBack func()) {
	b.t.Helper()
	if err := os.Rename(b.logPath(), b.logPath()+".away"); err != nil {
		b.t.Fatal(err)
	}
	return func() {
		b.t.Helper()
		if err := os.Rename(b.logPath()+".away", b.logPath()); err != nil {
			b.t.Fatal(err)
		}
	}
}

// TestUpdate: a change and its outbox record are there together or not at all.
func TestUpdate(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.change("0") // so that the log has a line
	refused := errors.New("refused")
	err := b.Update(entry("no"), func(tx *store.Tx) error {
		return errors.Join(put("no")(tx), refused)
	})
	if !errors.Is(err, refused) || b.db.Now().Users().Has("no") {
		t.Errorf("Update: %v; the change is there: %v", err, b.db.Now().Users().Has("no"))
	}
	b.check("after a refusal", []string{"0"}, []string{"0"})
	err = b.Update(entry("1"), func(tx *store.Tx) error {
		if tx.Outbox().Has("1") {
			t.Error("the outbox record comes before the change")
		}
		return put("1")(tx)
	})
	if err != nil || !b.db.Now().Users().Has("1") {
		t.Errorf("Update: %v; the change is there: %v", err, b.db.Now().Users().Has("1"))
	}
	b.check("after a change", []string{"1"}, []string{"0"})
	o, err := b.db.Now().Outbox().Get("1")
	var e audit.Entry
	if err := errors.Join(err, json.Unmarshal(o.Entry, &e)); err != nil || e.RequestId != "1" || e.Action != "CreateAlias" || e.Late || o.After != b.log.Head().Seq {
		t.Errorf("the record is %+v after line %d: %v", e, o.After, err)
	}
	if b.Pending() {
		t.Error("a change whose line was not tried yet is pending")
	}
	if err := b.Append(entry("1")); err != nil {
		t.Fatal(err)
	}
	b.check("after its line", []string{"1"}, []string{"0", "1"})
}

// TestSettledRecordsAreRemoved: the next change removes the records of lines that are in
// the log, and Flush does without one. A change that fails loses none of them.
func TestSettledRecordsAreRemoved(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for i := range 3 {
		b.change(fmt.Sprint(i))
		if got := b.outbox(); len(got) != 1 || got[0] != fmt.Sprint(i) {
			t.Errorf("after change %d the outbox has %q", i, got)
		}
	}
	if err := b.Update(entry("no"), func(*store.Tx) error { return errors.New("refused") }); err == nil {
		t.Fatal("no error")
	}
	b.check("after a refusal", []string{"2"}, []string{"0", "1", "2"})
	b.Flush()
	b.check("flushed", nil, []string{"0", "1", "2"})

	// However many changes are made at once, their records do not pile up.
	const many = 100
	var changes sync.WaitGroup
	for i := range many {
		changes.Go(func() {
			if err := b.Update(entry(fmt.Sprint("m", i)), put("m")); err != nil {
				t.Error(err)
			}
		})
	}
	changes.Wait()
	if n := len(b.outbox()); n != many {
		t.Errorf("%d of %d records are there before any line is", n, many)
	}
	for i := range many {
		if err := b.Append(entry(fmt.Sprint("m", i))); err != nil {
			t.Fatal(err)
		}
	}
	for i := range many / 5 {
		b.change(fmt.Sprint("n", i))
	}
	if got := b.outbox(); len(got) != 1 {
		t.Errorf("%d records are left", len(got))
	}
}

// TestLogFails: a line that the log does not take is pending, with its record, until
// Flush has appended it as a late one. Nothing is appended twice.
func TestLogFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.change("0")
		putBack := b.takeLog()
		for _, id := range []string{"1", "2"} {
			if err := b.Update(entry(id), put(id)); err != nil {
				t.Fatal(err)
			}
			if err := b.Append(entry(id)); err == nil || !b.Pending() {
				t.Errorf("without a log, Append: %v; pending: %v", err, b.Pending())
			}
		}
		b.Flush() // in vain
		if got := b.outbox(); !slices.Equal(got, []string{"1", "2"}) || !b.Pending() {
			t.Errorf("flushed in vain, the outbox has %q; pending: %v", got, b.Pending())
		}
		putBack()
		time.Sleep(2 * time.Second) // the log tries again every second
		b.check("before Flush", []string{"1", "2"}, []string{"0"})
		b.Flush()
		b.check("flushed", nil, []string{"0", "1 late", "2 late"})
		if b.Pending() {
			t.Error("a line is pending that is in the log")
		}
		b.Flush()
		b.stop()
		b.start()
		b.check("after a restart", nil, []string{"0", "1 late", "2 late"})
	})
}

// TestKill ends the process at each step of a change. The next one appends what the log
// lacks, once, and removes the records.
func TestKill(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		steps func(b *bench) error
		lines []string
	}{
		"before the change": {func(*bench) error { return nil }, []string{"0"}},
		"before the line":   {func(b *bench) error { return b.Update(entry("1"), put("1")) }, []string{"0", "1 late"}},
		"behind the line":   {func(b *bench) error { return errors.Join(b.Update(entry("1"), put("1")), b.Append(entry("1"))) }, []string{"0", "1"}},
		"between two lines": {func(b *bench) error {
			return errors.Join(b.Update(entry("1"), put("1")), b.Update(entry("2"), put("2")), b.Append(entry("2")))
		}, []string{"0", "2", "1 late"}},
		"behind a line whose record is a later one": {func(b *bench) error {
			return errors.Join(b.Update(entry("2"), put("2")), b.log.Append(entry("2")), b.log.Append(entry("x")), b.Update(entry("1"), put("1")))
		}, []string{"0", "2", "x", "1 late"}},
		"behind a refusal of the same request": {func(b *bench) error {
			refusal := entry("1")
			refusal.Status, refusal.Code = 503, "ServiceUnavailableTemporary"
			return errors.Join(b.Update(entry("1"), put("1")), b.log.Append(refusal))
		}, []string{"0", "1", "1 late"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.change("0")
			if err := tc.steps(b); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				b.stop()
				b.start()
				b.check("restarted", nil, tc.lines)
			}
		})
	}
}

// TestOpenFails: a log that does not take what it lacks, or a record that is no line,
// keeps the journal closed, and the record is kept.
func TestOpenFails(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	if err := b.Update(entry("1"), put("1")); err != nil {
		t.Fatal(err)
	}
	putBack := b.takeLog()
	if _, err := journal.Open(b.db, b.log, quiet); err == nil {
		t.Error("Open without a log")
	}
	putBack()
	if got := b.outbox(); !slices.Equal(got, []string{"1"}) {
		t.Errorf("the outbox has %q", got)
	}
	b.stop()
	b.start()
	b.check("with the log", nil, []string{"1 late"})
	err := b.db.Update(func(tx *store.Tx) error {
		return tx.Outbox().Put(store.Outbox{RequestId: "2", Entry: json.RawMessage(`[]`)})
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := journal.Open(b.db, b.log, quiet); err == nil {
		t.Error("Open with a record that is no line")
	}
	b.check("with a record that is no line", []string{"2"}, []string{"1 late"})
}
