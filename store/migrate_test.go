package store_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/kmsgate/kmsgate/store"
)

// raw changes a file without this package.
func raw(t *testing.T, path string, f func(tx *bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(f), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// makeOld makes a file of schema version 3 with a key, and returns its content.
func makeOld(t *testing.T, path, keyId string) []byte {
	t.Helper()
	s := open(t, path)
	update(t, s, func(tx *store.Tx) error { return tx.Keys().Put(store.Key{KeyId: keyId}) })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	raw(t, path, func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists([]byte("retiredkeys"))
		return errors.Join(err, tx.Bucket([]byte("meta")).Put([]byte("schema"), []byte("3")))
	})
	return read(t, path)
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// migrate opens a file and closes it. It wants Migrated to return from and copied.
func migrate(t *testing.T, path string, from int, copied string) {
	t.Helper()
	s := open(t, path)
	if gotFrom, gotCopy := s.Migrated(); gotFrom != from || gotCopy != copied {
		t.Errorf("Migrated: got %d, %q, want %d, %q", gotFrom, gotCopy, from, copied)
	}
	if s.Now().Keys().Len() != 1 {
		t.Errorf("got %d keys, want 1", s.Now().Keys().Len())
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestMigrationCopy checks that Open keeps a copy of a file that it migrates, in the old version, and
// one copy only if it is interrupted before the migration.
func TestMigrationCopy(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "db")
	old := makeOld(t, path, "k1")
	copied := path + ".schema-3"
	migrate(t, path, 3, copied)
	migrate(t, path, 0, "")
	info, err := os.Stat(copied)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode of the copy: got %v, %v, want 0600", info, err)
	}
	before := read(t, copied)
	opened := filepath.Join(dir, "opened") // bbolt changes a file that it opens
	write(t, opened, before)
	raw(t, opened, func(tx *bbolt.Tx) error {
		if version := tx.Bucket([]byte("meta")).Get([]byte("schema")); string(version) != "3" ||
			tx.Bucket([]byte("retiredkeys")) == nil || tx.Bucket([]byte("keys")).Get([]byte("k1")) == nil {
			t.Errorf("the copy has schema version %q, want 3, and all records", version)
		}
		return nil
	})
	write(t, path, old) // a kill before the migration leaves both files
	migrate(t, path, 3, copied)
	if !bytes.Equal(read(t, copied), before) {
		t.Error("the second migration changed the copy of the first")
	}
	write(t, path, before) // an operator goes back, and upgrades again
	migrate(t, path, 3, copied)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	makeOld(t, path, "k2")
	migrate(t, path, 3, copied+".2")
	names, err := filepath.Glob(path + "*")
	if err != nil || len(names) != 3 {
		t.Errorf("got the files %q, %v, want the database and two copies", names, err)
	}
}

// TestMigrationFails checks that a migration that fails, after the copy or because there can be none,
// leaves the old file unchanged.
func TestMigrationFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "db")
	makeOld(t, path, "k1")
	put := func(value string) {
		t.Helper()
		raw(t, path, func(tx *bbolt.Tx) error { return tx.Bucket([]byte("keys")).Put([]byte("k1"), []byte(value)) })
	}
	put("{")
	old := read(t, path)
	if _, err := store.Open(path); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("Open with a damaged record: got %v, want ErrDamaged", err)
	}
	if !bytes.Equal(read(t, path), old) {
		t.Error("a migration that failed changed the file")
	}
	put(`{"KeyId":"k1"}`)
	migrate(t, path, 3, path+".schema-3.2")

	// The name is so long that the copy cannot be written.
	dir = t.TempDir()
	long, short := filepath.Join(dir, strings.Repeat("d", 242)), filepath.Join(dir, "db")
	old = makeOld(t, long, "k1")
	if _, err := store.Open(long); !errors.Is(err, syscall.ENAMETOOLONG) || !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("Open without a copy: got %v, want ENAMETOOLONG, and that nothing was changed", err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 || !bytes.Equal(read(t, long), old) {
		t.Errorf("a migration without a copy left %v, %v, want only the old file, unchanged", files, err)
	}
	if err := os.Rename(long, short); err != nil {
		t.Fatal(err)
	}
	migrate(t, short, 3, short+".schema-3")
}
