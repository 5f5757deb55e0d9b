package store_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/store"
	"github.com/kmsgate/kmsgate/store/storetest"
)

// fill makes a database with two keys. One of them was changed.
func fill(t *testing.T, path string) {
	t.Helper()
	s := open(t, path)
	update(t, s, func(tx *store.Tx) error { return tx.SetInstance(store.Instance{InstanceId: "kst-1"}) })
	for _, k := range []store.Key{{KeyId: "k1"}, {KeyId: "k2"}, {KeyId: "k2", KeyState: store.Disabled}} {
		update(t, s, func(tx *store.Tx) error { return tx.Keys().Put(k) })
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// value returns a copy of a value in a file.
func value(t *testing.T, path, bucket, id string) (v string) {
	t.Helper()
	raw(t, path, func(tx *bbolt.Tx) error {
		v = string(tx.Bucket([]byte(bucket)).Get([]byte(id)))
		return nil
	})
	return v
}

func remove(t *testing.T, path, bucket, id string) {
	t.Helper()
	raw(t, path, func(tx *bbolt.Tx) error { return tx.Bucket([]byte(bucket)).Delete([]byte(id)) })
}

// attacks change a file with one's own program, without its data key. before returns the value of a record
// at an earlier time.
var attacks = map[string]func(t *testing.T, path string, before func(bucket, id string) string){
	"edit a record": func(t *testing.T, path string, _ func(bucket, id string) string) {
		v := []byte(value(t, path, "keys", "k1"))
		v[len(v)-1] ^= 1
		put(t, path, "keys", "k1", string(v))
	},
	"write a record": func(t *testing.T, path string, _ func(bucket, id string) string) {
		put(t, path, "users", "mallory", `{"UserName":"mallory","Policies":["AliyunKMSFullAccess"]}`)
	},
	"swap two records": func(t *testing.T, path string, _ func(bucket, id string) string) {
		one, two := value(t, path, "keys", "k1"), value(t, path, "keys", "k2")
		put(t, path, "keys", "k1", two)
		put(t, path, "keys", "k2", one)
	},
	"copy a record to another bucket": func(t *testing.T, path string, _ func(bucket, id string) string) {
		put(t, path, "aliases", "k1", value(t, path, "keys", "k1"))
	},
	"delete a record": func(t *testing.T, path string, _ func(bucket, id string) string) {
		remove(t, path, "keys", "k1")
	},
	"return an earlier record": func(t *testing.T, path string, before func(bucket, id string) string) {
		put(t, path, "keys", "k2", before("keys", "k2"))
	},
	"return an earlier head": func(t *testing.T, path string, before func(bucket, id string) string) {
		put(t, path, "meta", "head", before("meta", "head"))
	},
	"delete the head": func(t *testing.T, path string, _ func(bucket, id string) string) {
		remove(t, path, "meta", "head")
	},
	"delete the data key": func(t *testing.T, path string, _ func(bucket, id string) string) {
		remove(t, path, "meta", "datakey")
	},
	"delete the data key and the head": func(t *testing.T, path string, _ func(bucket, id string) string) {
		remove(t, path, "meta", "datakey")
		remove(t, path, "meta", "head")
	},
	"change the instance": func(t *testing.T, path string, _ func(bucket, id string) string) {
		put(t, path, "meta", "instance", `{"InstanceId":"kst-2"}`)
	},
}

// TestTampered changes a file while no Store is open. It must not open again.
func TestTampered(t *testing.T) {
	for name, attack := range attacks {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path, earlier := filepath.Join(dir, "db"), filepath.Join(dir, "earlier")
			fill(t, path)
			write(t, earlier, read(t, path))
			s := open(t, path)
			update(t, s, func(tx *store.Tx) error { return tx.Keys().Put(store.Key{KeyId: "k2", Description: "later"}) })
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			attack(t, path, func(bucket, id string) string { return value(t, earlier, bucket, id) })
			if _, err := storetest.Open(path); !errors.Is(err, store.ErrTampered) || !strings.Contains(err.Error(), "kmsgate restore") {
				t.Errorf("got %v, want ErrTampered and advice", err)
			}
		})
	}
}

// TestTamperedWhileOpen changes the file of an open Store. The next change must fail, and every later one.
// Records can still be read.
func TestTamperedWhileOpen(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, path string){
		"replace the file by an earlier one": func(t *testing.T, path string) {
			if err := os.Rename(path+".earlier", path); err != nil {
				t.Fatal(err)
			}
		},
		"write an earlier content to the file": func(t *testing.T, path string) {
			content := read(t, path+".earlier")
			afterTheLastCommit(t, path, func() { write(t, path, content) })
		},
		"remove the file": func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			fill(t, path)
			write(t, path+".earlier", read(t, path))
			s := open(t, path)
			update(t, s, putAlias("alias/later"))
			change(t, path)
			for range 2 {
				if err := s.Update(putAlias("alias/next")); !errors.Is(err, store.ErrTampered) || !errors.Is(err, store.ErrUnwritable) {
					t.Errorf("a change: got %v, want ErrTampered and ErrUnwritable", err)
				}
			}
			if err := s.Tampered(); !errors.Is(err, store.ErrTampered) {
				t.Errorf("Tampered: got %v", err)
			}
			if _, err := s.Snapshot(); !errors.Is(err, store.ErrTampered) {
				t.Errorf("a snapshot: got %v, want ErrTampered", err)
			}
			if r := s.Now(); !r.Aliases().Has("alias/later") || r.Aliases().Has("alias/next") {
				t.Error("the records are not those of the last change that succeeded")
			}
		})
	}
}

// afterTheLastCommit calls change until the file has another time of change: the kernel counts time
// in steps of some milliseconds.
func afterTheLastCommit(t *testing.T, path string, change func()) {
	t.Helper()
	changed := func() unix.Timespec {
		var s unix.Stat_t
		if err := unix.Stat(path, &s); err != nil {
			t.Fatal(err)
		}
		return s.Ctim
	}
	before := changed()
	waitFor(t, "another time of change", func() bool {
		change()
		return changed() != before
	})
}

// TestDamagedWhileOpen damages the file of an open Store. The next change must fail, and the process go on.
func TestDamagedWhileOpen(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, path string){
		"cut off": func(t *testing.T, path string) {
			if err := os.Truncate(path, 2*int64(os.Getpagesize())); err != nil {
				t.Fatal(err)
			}
		},
		"filled with garbage": func(t *testing.T, path string) {
			content := read(t, path)
			for i := 2 * os.Getpagesize(); i < len(content); i++ {
				content[i] = 0xa5
			}
			afterTheLastCommit(t, path, func() { write(t, path, content) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			changed, err := storetest.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			update(t, changed, putAlias("alias/1"))
			damage(t, path)
			if err := changed.Update(putAlias("alias/2")); !errors.Is(err, store.ErrTampered) || !errors.Is(err, store.ErrUnwritable) {
				t.Errorf("a change: got %v, want ErrTampered and ErrUnwritable", err)
			}
			path = filepath.Join(t.TempDir(), "db")
			s, err := storetest.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			update(t, s, putAlias("alias/1"))
			damage(t, path)
			if _, err := s.Snapshot(); !errors.Is(err, store.ErrTampered) || !errors.Is(err, store.ErrUnwritable) {
				t.Errorf("a snapshot: got %v, want ErrTampered and ErrUnwritable", err)
			}
			if !s.Now().Aliases().Has("alias/1") {
				t.Error("the records cannot be read")
			}
		})
	}
}

// TestBroughtBack removes a record from the file before the Store deletes it, without being noticed, so that it
// could be brought back afterwards; and adds one before the Store does.
func TestBroughtBack(t *testing.T) {
	for name, test := range map[string]struct {
		change func(s *store.Store)
		then   func(tx *store.Tx) error
	}{
		"removed": {func(s *store.Store) { store.Replace(s, "keys", "k1", nil) }, func(tx *store.Tx) error { return tx.Keys().Delete("k1") }},
		"added": {func(s *store.Store) { store.Replace(s, "keys", "k3", []byte("x")) },
			func(tx *store.Tx) error { return tx.Keys().Put(store.Key{KeyId: "k3"}) }},
	} {
		path := filepath.Join(t.TempDir(), "db")
		fill(t, path)
		s := open(t, path)
		test.change(s)
		if err := s.Update(test.then); !errors.Is(err, store.ErrTampered) {
			t.Errorf("%s: got %v, want ErrTampered", name, err)
		}
	}
}

// TestTouched changes the file's times and its links, as a program that makes backups does. That is no
// change of the records.
func TestTouched(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path)
	update(t, s, putAlias("alias/1"))
	if err := os.Link(path, path+".link"); err != nil {
		t.Fatal(err)
	}
	afterTheLastCommit(t, path, func() {
		if err := errors.Join(os.Chmod(path, 0o640), os.Chmod(path, 0o600)); err != nil {
			t.Fatal(err)
		}
	})
	update(t, s, putAlias("alias/2"))
}

// foreignKeys are those of another token.
type foreignKeys struct{ *hsmtest.Fake }

var errForeign = errors.New("sealed by another token")

func (foreignKeys) Unseal(context.Context, []byte, []byte) ([]byte, error) { return nil, errForeign }

// TestUnseal opens a file without the right token, and then with it.
func TestUnseal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	fill(t, path)
	f, err := store.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if f.Instance().InstanceId != "kst-1" || f.Complete() || !f.Started() {
		t.Errorf("got instance %+v, complete %v, started %v", f.Instance(), f.Complete(), f.Started())
	}
	if _, err := f.Unseal(t.Context(), foreignKeys{}, store.Options{}); !errors.Is(err, errForeign) {
		t.Errorf("Unseal with another token: got %v, want its error", err)
	}
	s := open(t, path) // the failed Unseal has closed the file
	if s.Now().Keys().Len() != 2 || s.Now().Number() == 0 {
		t.Errorf("got %d keys and change number %d", s.Now().Keys().Len(), s.Now().Number())
	}
}

// TestSetInstance sets the instance of a new file, which is not complete before it has the audit log's key.
func TestSetInstance(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	want := store.Instance{InstanceId: "kst-1"}
	for range 2 { // the second time as after a kill
		f, err := store.OpenFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.SetInstance(want), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	f, err := store.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if f.Started() || f.Instance() != want {
		t.Errorf("got started %v, instance %+v", f.Started(), f.Instance())
	}
	s, err := f.Unseal(t.Context(), new(hsmtest.Fake), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if s.Now().Instance() != want {
		t.Errorf("got instance %+v", s.Now().Instance())
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if f, err = store.OpenFile(path); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.SetInstance(want); err == nil {
		t.Error("SetInstance after the data key was made: got no error")
	}
}

// TestNumbers checks that changes have increasing numbers, across a restart and after Skip, and that what
// changes nothing has none.
func TestNumbers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path)
	first := s.Now().Number()
	update(t, s, func(*store.Tx) error { return nil })
	update(t, s, putAlias("alias/1"))
	if n := s.Now().Number(); n != first+1 {
		t.Errorf("after one change: got number %d, want %d", n, first+1)
	}
	update(t, s, func(tx *store.Tx) error {
		store.Skip(tx, 100)
		return putAlias("alias/2")(tx)
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	update(t, s, func(tx *store.Tx) error {
		if tx.Number() != 102 {
			t.Errorf("after Skip(100) and a restart: got number %d, want 102", tx.Number())
		}
		return putAlias("alias/3")(tx)
	})
}

// TestTooManyWrites makes a change that is too great for an engine.
func TestTooManyWrites(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	err := s.Update(func(tx *store.Tx) error {
		for i := range store.MaxWrites + 1 {
			if err := tx.Keys().Put(store.Key{KeyId: string(rune('0' + i))}); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil || s.Now().Keys().Len() != 0 {
		t.Errorf("got %v and %d keys, want an error and none", err, s.Now().Keys().Len())
	}
}
