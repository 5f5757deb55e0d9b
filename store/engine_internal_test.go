package store

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"
)

// An engineKind opens engines of one kind, and simulates disk faults and other programs that change their files.
type engineKind struct {
	open     func(place string) (engine, error)
	failNext func(e engine, err error)                                      // the next commit fails, after its writes
	failing  func(t *testing.T, place string) (mend func())                 // rewrite fails until mend is called
	meddle   func(t *testing.T, place string, f func(tx transaction) error) // somebody else writes to a place
	replace  func(t *testing.T, place string)                               // something else is put there
	restore  func(t *testing.T, s *Snapshot, place string)
}

var engineKinds = map[string]engineKind{
	"bbolt": {
		open: func(place string) (engine, error) { return openBolt(place) },
		failNext: func(e engine, err error) {
			b := e.(*boltEngine)
			b.commitBolt = func(tx *bbolt.Tx) error {
				b.commitBolt = (*bbolt.Tx).Commit
				return errors.Join(tx.Commit(), err)
			}
		},
		failing: func(t *testing.T, place string) (mend func()) {
			obstacle := filepath.Join(rebuiltName(place), "obstacle") // a directory that is not empty stays
			check(t, os.MkdirAll(obstacle, 0o700))
			return func() { check(t, os.RemoveAll(rebuiltName(place))) }
		},
		meddle: func(t *testing.T, place string, f func(tx transaction) error) {
			// The lock of an open file keeps bbolt out, but not a program that edits a copy and copies it back.
			copied := filepath.Join(t.TempDir(), "copy")
			check(t, os.WriteFile(copied, contents(t, place), 0o600))
			e, err := openBolt(copied)
			check(t, err)
			change(t, e, f)
			check(t, e.close())
			file, err := os.OpenFile(place, os.O_WRONLY, 0)
			check(t, err)
			_, err = file.Write(contents(t, copied))
			check(t, errors.Join(err, file.Close()))
		},
		replace: func(t *testing.T, place string) {
			check(t, os.WriteFile(place+".other", contents(t, place), 0o600))
			check(t, os.Rename(place+".other", place))
		},
		restore: func(t *testing.T, s *Snapshot, place string) {
			file, err := os.OpenFile(place, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			check(t, err)
			_, err = s.WriteTo(file)
			check(t, errors.Join(err, file.Close()))
		},
	},
}

// TestEngines is the contract of an engine: what the Store relies on, tried on every kind.
func TestEngines(t *testing.T) {
	for name, kind := range engineKinds {
		for clause, try := range map[string]func(b *engineBench){
			"a commit is durable":                        (*engineBench).tryDurable,
			"the last write of a change counts":          (*engineBench).tryLastWrite,
			"a change sees itself, and nobody else does": (*engineBench).tryIsolation,
			"a rollback leaves nothing":                  (*engineBench).tryRollback,
			"what was read is not what is written later": (*engineBench).tryCopies,
			"view and all return the callback's error":   (*engineBench).tryErrors,
			"a change may be as large as allowed":        (*engineBench).tryLargest,
			"rewrite ends uncertainty":                   (*engineBench).tryRewrite,
			"rewrite may fail, and be called again":      (*engineBench).tryRewriteAgain,
			"meddling is noticed":                        (*engineBench).tryAltered,
			"a replacement is noticed":                   (*engineBench).tryMoved,
			"a snapshot is a moment":                     (*engineBench).trySnapshot,
		} {
			t.Run(name+"/"+clause, func(t *testing.T) {
				b := &engineBench{t: t, kind: kind, place: filepath.Join(t.TempDir(), "place")}
				b.open()
				try(b)
				check(t, b.close())
			})
		}
	}
}

// An engineBench is an engine and what it should hold.
type engineBench struct {
	t     *testing.T
	kind  engineKind
	place string
	engine
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func contents(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	check(t, err)
	return data
}

func (b *engineBench) open() {
	b.t.Helper()
	e, err := b.kind.open(b.place)
	check(b.t, err)
	b.engine = e
}

func (b *engineBench) reopen() {
	b.t.Helper()
	check(b.t, b.close())
	b.open()
}

// values are the values of an engine by "bucket/id".
type values map[string]string

func (v values) put(tx transaction) (err error) {
	for name, value := range v {
		bucket, id := filepath.Split(name)
		err = errors.Join(err, tx.put(filepath.Clean(bucket), id, []byte(value)))
	}
	return err
}

func valuesIn(tx transaction) (values, error) {
	v := make(values)
	err := tx.all(func(bucket, id string, value []byte) error {
		if got := tx.get(bucket, id); string(got) != string(value) {
			return fmt.Errorf("%s/%s: get returned %q, and all %q", bucket, id, got, value)
		}
		v[bucket+"/"+id] = string(value)
		return nil
	})
	return v, err
}

// change commits a change.
func change(t *testing.T, e engine, f func(tx transaction) error) {
	t.Helper()
	tx, err := e.begin()
	check(t, err)
	defer tx.rollback()
	check(t, errors.Join(f(tx), tx.commit()))
}

func (b *engineBench) want(want values) {
	b.t.Helper()
	check(b.t, b.view(func(tx transaction) error {
		got, err := valuesIn(tx)
		if !maps.Equal(got, want) {
			b.t.Errorf("got the values %v, want %v", got, want)
		}
		if v := tx.get("none", "none"); v != nil {
			b.t.Errorf("got %q for a value that was never written, want nil", v)
		}
		return err
	}))
}

func (b *engineBench) tryDurable() {
	want := values{"a/1": "one", "a/2": "", "b/1": "other"}
	change(b.t, b, want.put)
	b.want(want)
	b.reopen()
	b.want(want)
}

func (b *engineBench) tryLastWrite() {
	change(b.t, b, values{"a/1": "first", "a/2": "first"}.put)
	change(b.t, b, func(tx transaction) error {
		return errors.Join(tx.put("a", "1", []byte("second")), tx.put("a", "1", []byte("third")),
			tx.delete("a", "2"), tx.put("a", "3", nil), tx.delete("a", "3"), tx.delete("none", "1"))
	})
	b.reopen()
	b.want(values{"a/1": "third"})
}

func (b *engineBench) tryIsolation() {
	before := values{"a/1": "before"}
	change(b.t, b, before.put)
	tx, err := b.begin()
	check(b.t, err)
	after := values{"a/1": "after", "b/2": "new"}
	check(b.t, after.put(tx))
	if got, err := valuesIn(tx); err != nil || !maps.Equal(got, after) {
		b.t.Errorf("within the change: got %v, %v, want %v", got, err, after)
	}
	b.want(before)
	check(b.t, tx.commit())
	tx.rollback() // does nothing
	b.want(after)
}

func (b *engineBench) tryRollback() {
	before := values{"a/1": "before"}
	change(b.t, b, before.put)
	tx, err := b.begin()
	check(b.t, err)
	check(b.t, errors.Join(tx.delete("a", "1"), values{"a/2": "new", "b/1": "new"}.put(tx)))
	tx.rollback()
	b.want(before)
	change(b.t, b, values{"a/3": "next"}.put) // begin does not wait for what was rolled back
	b.reopen()
	b.want(values{"a/1": "before", "a/3": "next"})
}

func (b *engineBench) tryCopies() {
	value := []byte("as it was put")
	change(b.t, b, func(tx transaction) error { return tx.put("a", "1", value) })
	copy(value, "XXXXXXXX")
	b.want(values{"a/1": "as it was put"})
}

func (b *engineBench) tryErrors() {
	change(b.t, b, values{"a/1": "one", "a/2": "two"}.put)
	mine := errors.New("mine")
	err := b.view(func(tx transaction) error {
		calls := 0
		err := tx.all(func(string, string, []byte) error { calls++; return mine })
		if calls != 1 {
			b.t.Errorf("all went on after an error: %d calls", calls)
		}
		return err
	})
	if !errors.Is(err, mine) {
		b.t.Errorf("got %v, want the callback's error", err)
	}
}

func (b *engineBench) tryLargest() {
	want := make(values)
	for i := range MaxWrites {
		want[fmt.Sprintf("a/%06d", i)] = "0123456789"
	}
	change(b.t, b, want.put)
	b.reopen()
	b.want(want)
}

func (b *engineBench) tryRewrite() {
	before := values{"a/1": "before", "b/1": "before"}
	change(b.t, b, before.put)
	tx, err := b.begin()
	check(b.t, err)
	check(b.t, values{"a/1": "failed", "c/1": "failed"}.put(tx))
	failure := errors.New("the flush failed")
	b.kind.failNext(b.engine, failure)
	if err := tx.commit(); !errors.Is(err, failure) {
		b.t.Fatalf("the commit returned %v, want %v", err, failure)
	}
	tx.rollback()
	check(b.t, b.rewrite(before.put))
	b.want(before)
	change(b.t, b, values{"a/2": "after"}.put)
	b.reopen()
	b.want(values{"a/1": "before", "b/1": "before", "a/2": "after"})
}

func (b *engineBench) tryRewriteAgain() {
	change(b.t, b, values{"a/1": "before"}.put)
	mend := b.kind.failing(b.t, b.place)
	fresh := values{"a/1": "rewritten"}
	if err := b.rewrite(fresh.put); err == nil {
		b.t.Error("rewrite succeeded on a disk that fails")
	}
	mend()
	mine := errors.New("mine")
	if err := b.rewrite(func(transaction) error { return mine }); !errors.Is(err, mine) {
		b.t.Errorf("rewrite: got %v, want the callback's error", err)
	}
	b.want(values{"a/1": "before"})
	check(b.t, b.rewrite(fresh.put))
	b.reopen()
	b.want(fresh)
}

func (b *engineBench) wantAltered(want bool) {
	b.t.Helper()
	if got, err := b.altered(); got != want || err != nil {
		b.t.Errorf("altered: got %v, %v, want %v", got, err, want)
	}
}

func (b *engineBench) tryAltered() {
	b.wantAltered(false)
	change(b.t, b, values{"a/1": "one"}.put)
	b.wantAltered(false)
	b.kind.meddle(b.t, b.place, values{"a/1": "evil"}.put)
	b.wantAltered(true)
	b.wantAltered(true) // until unaltered is called
	b.unaltered()
	b.wantAltered(false)
	check(b.t, b.rewrite(values{"a/1": "one"}.put))
	b.wantAltered(false)
}

func (b *engineBench) tryMoved() {
	change(b.t, b, values{"a/1": "one"}.put)
	b.kind.replace(b.t, b.place)
	for range 2 { // for ever
		if got, err := b.altered(); !got || !errors.Is(err, errMoved) {
			b.t.Errorf("altered: got %v, %v, want errMoved", got, err)
		}
	}
}

func (b *engineBench) trySnapshot() {
	before := values{"a/1": "before"}
	change(b.t, b, before.put)
	s, err := b.snapshot()
	check(b.t, err)
	change(b.t, b, values{"a/1": "after", "a/2": "after"}.put) // does not wait for the snapshot
	check(b.t, b.rewrite(values{"a/1": "rewritten"}.put))
	place := filepath.Join(b.t.TempDir(), "restored")
	b.kind.restore(b.t, s, place)
	check(b.t, errors.Join(s.Close(), s.Close()))
	b.want(values{"a/1": "rewritten"})
	check(b.t, b.close())
	b.place = place
	b.open()
	b.want(before)
}
