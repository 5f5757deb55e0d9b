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
	"github.com/kmsgate/kmsgate/store/storetest"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// A bench is a journal with its store and its log. It can be stopped and started again, as
// a process can.
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
	if b.db, err = storetest.Open(filepath.Join(b.dir, "db")); err != nil {
		b.t.Fatal(err)
	}
	if b.log, err = audit.Open(audit.Config{Path: b.logPath(), AppendTimeout: time.Minute, Logger: quiet}); err != nil {
		b.t.Fatal(err)
	}
	if b.Journal, err = journal.Open(b.db, b.log, quiet); err != nil {
		b.t.Fatal(err)
	}
}

// stop closes everything without flushing, as a kill would.
func (b *bench) stop() {
	b.log.Close()
	b.db.Close()
}

func (b *bench) logPath() string { return filepath.Join(b.dir, "audit.log") }

func entry(requestId string) audit.Entry {
	return audit.Entry{RequestId: requestId, Action: "CreateAlias", Status: 200}
}

// update makes a change without appending its line.
func (b *bench) update(e audit.Entry, f func(tx *store.Tx) error) error { return b.Update(&e, f) }

// put returns a change that adds a user with the name id.
func put(id string) func(tx *store.Tx) error {
	return func(tx *store.Tx) error { return tx.Users().Put(store.User{UserName: id}) }
}

// change makes a change and appends its audit line.
func (b *bench) change(id string) {
	b.t.Helper()
	if err := errors.Join(b.update(entry(id), put(id)), b.Append(entry(id))); err != nil {
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

func (b *bench) check(moment string, outbox, lines []string) {
	b.t.Helper()
	if got := b.outbox(); !slices.Equal(got, outbox) {
		b.t.Errorf("%s: got %q in the outbox, want %q", moment, got, outbox)
	}
	if got := b.lines(); !slices.Equal(got, lines) {
		b.t.Errorf("%s: got %q in the log, want %q", moment, got, lines)
	}
}

// hideLog renames the log's file, so that the log cannot write it, until restore is called.
func (b *bench) hideLog() (restore func()) {
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

// TestUpdate checks that a change and its outbox record are both in the database or neither is.
func TestUpdate(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.change("0") // the log needs a line
	refused := errors.New("refused")
	err := b.update(entry("no"), func(tx *store.Tx) error {
		return errors.Join(put("no")(tx), refused)
	})
	if !errors.Is(err, refused) || b.db.Now().Users().Has("no") {
		t.Errorf("a change that fails: got error %v, want %v; the change is in the database: %v, want false",
			err, refused, b.db.Now().Users().Has("no"))
	}
	b.check("after a refusal", []string{"0"}, []string{"0"})
	err = b.update(entry("1"), func(tx *store.Tx) error {
		if tx.Outbox().Has("1") {
			t.Error("the outbox record was written before the change was made")
		}
		return put("1")(tx)
	})
	if err != nil || !b.db.Now().Users().Has("1") {
		t.Errorf("a change: got error %v, want none; the change is in the database: %v, want true",
			err, b.db.Now().Users().Has("1"))
	}
	b.check("after a change", []string{"1"}, []string{"0"})
	o, err := b.db.Now().Outbox().Get("1")
	var e audit.Entry
	err = errors.Join(err, json.Unmarshal(o.Entry, &e))
	if err != nil || e.RequestId != "1" || e.Action != "CreateAlias" || e.Late || o.After != b.log.Head().Seq {
		t.Errorf("the outbox record: got %+v after line %d, %v, want request 1 after line %d",
			e, o.After, err, b.log.Head().Seq)
	}
	if b.Pending() {
		t.Error("Pending: got true before Append was called, want false")
	}
	if err := b.Append(entry("1")); err != nil {
		t.Fatal(err)
	}
	b.check("after Append", []string{"1"}, []string{"0", "1"})
}

// TestRemoval checks that the next change or Flush removes the outbox records of lines that
// are in the log, and that a change which fails removes none.
func TestRemoval(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for i := range 3 {
		b.change(fmt.Sprint(i))
		if got := b.outbox(); len(got) != 1 || got[0] != fmt.Sprint(i) {
			t.Errorf("after change %d: got %q in the outbox, want only its record", i, got)
		}
	}
	if err := b.update(entry("no"), func(*store.Tx) error { return errors.New("refused") }); err == nil {
		t.Fatal("a change that fails: got no error")
	}
	b.check("after a refusal", []string{"2"}, []string{"0", "1", "2"})
	b.Flush()
	b.check("after Flush", nil, []string{"0", "1", "2"})

	// The records of many changes made at once are removed by fewer changes after them.
	const n = 100
	var changes sync.WaitGroup
	for i := range n {
		changes.Go(func() {
			if err := b.update(entry(fmt.Sprint("m", i)), put("m")); err != nil {
				t.Error(err)
			}
		})
	}
	changes.Wait()
	if got := len(b.outbox()); got != n {
		t.Errorf("before any Append: got %d records in the outbox, want %d", got, n)
	}
	for i := range n {
		if err := b.Append(entry(fmt.Sprint("m", i))); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n / 5 {
		b.change(fmt.Sprint("n", i))
	}
	if got := b.outbox(); len(got) != 1 {
		t.Errorf("got %d records in the outbox, want 1", len(got))
	}
}

// TestLogFails checks that a line which the log cannot write is pending, and its record kept,
// until Flush appends it with the mark Late. No line is appended twice.
func TestLogFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.change("0")
		restore := b.hideLog()
		for _, id := range []string{"1", "2"} {
			if err := b.update(entry(id), put(id)); err != nil {
				t.Fatal(err)
			}
			if err := b.Append(entry(id)); err == nil || !b.Pending() {
				t.Errorf("without the log's file: Append %v, Pending %v, want an error, true", err, b.Pending())
			}
		}
		b.Flush() // fails
		if got := b.outbox(); !slices.Equal(got, []string{"1", "2"}) || !b.Pending() {
			t.Errorf("after Flush failed: got %q in the outbox, Pending %v, want 1 and 2, true", got, b.Pending())
		}
		restore()
		time.Sleep(2 * time.Second) // the log retries every second
		b.check("before Flush", []string{"1", "2"}, []string{"0"})
		b.Flush()
		b.check("after Flush", nil, []string{"0", "1 late", "2 late"})
		if b.Pending() {
			t.Error("Pending: got true after all lines were appended, want false")
		}
		b.Flush()
		b.stop()
		b.start()
		b.check("after a restart", nil, []string{"0", "1 late", "2 late"})
	})
}

// TestKill ends the process at each step of a change. The next process must append the lines
// that the log lacks, once, and remove the outbox records.
func TestKill(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		steps func(b *bench) error
		lines []string
	}{
		"before the change": {func(*bench) error { return nil }, []string{"0"}},
		"before the line":   {func(b *bench) error { return b.update(entry("1"), put("1")) }, []string{"0", "1 late"}},
		"after the line": {func(b *bench) error {
			return errors.Join(b.update(entry("1"), put("1")), b.Append(entry("1")))
		}, []string{"0", "1"}},
		"between two lines": {func(b *bench) error {
			return errors.Join(b.update(entry("1"), put("1")), b.update(entry("2"), put("2")), b.Append(entry("2")))
		}, []string{"0", "2", "1 late"}},
		"after a line whose outbox record comes later": {func(b *bench) error {
			return errors.Join(b.update(entry("2"), put("2")), b.log.Append(entry("2")), b.log.Append(entry("x")),
				b.update(entry("1"), put("1")))
		}, []string{"0", "2", "x", "1 late"}},
		"after a refusal of the same request": {func(b *bench) error {
			refusal := entry("1")
			refusal.Status, refusal.Code = 503, "ServiceUnavailableTemporary"
			return errors.Join(b.update(entry("1"), put("1")), b.log.Append(refusal))
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
				b.check("after a restart", nil, tc.lines)
			}
		})
	}
}

// TestOpenFails checks that Open fails if the log cannot write the lines that it lacks, or if
// an outbox record is not an audit line. The record stays in the outbox.
func TestOpenFails(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	if err := b.update(entry("1"), put("1")); err != nil {
		t.Fatal(err)
	}
	restore := b.hideLog()
	if _, err := journal.Open(b.db, b.log, quiet); err == nil {
		t.Error("Open without the log's file: got no error")
	}
	restore()
	if got := b.outbox(); !slices.Equal(got, []string{"1"}) {
		t.Errorf("after Open failed: got %q in the outbox, want 1", got)
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
		t.Error("Open with a record that is not an audit line: got no error")
	}
	b.check("with a record that is not an audit line", []string{"2"}, []string{"1 late"})
}
