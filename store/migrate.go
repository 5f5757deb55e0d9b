package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"go.etcd.io/bbolt"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/internal/durable"
)

// SchemaVersion is the schema version of the files that this package writes. Open migrates files of
// earlier versions to it.
const SchemaVersion = schemaVersion

// Migrated returns the schema version that the file had before Open migrated it, and the path of
// the copy that Open made before it changed anything. from is 0 if Open migrated nothing.
func (s *Store) Migrated() (from int, copied string) { return s.migratedFrom, s.migratedCopy }

// migrate reads a file of an earlier version, keeps a copy, and replaces the file by one of the current
// version.
func (s *Store) migrate(ctx context.Context, keys hsm.Sealer, f *File) error {
	copied, err := f.engine.keepCopy(f.version)
	if err != nil {
		return fmt.Errorf("nothing was changed: copying it, before migrating it from schema version %d to %d: %w "+
			"(the directory needs space for a copy)", f.version, schemaVersion, err)
	}
	r, err := f.engine.readOld(f.version)
	if err != nil {
		return err
	}
	if err := s.newDataKey(ctx, keys); err != nil {
		return err
	}
	r.number = 1
	if err := s.reset(r); err != nil {
		return err
	}
	s.migratedFrom, s.migratedCopy = f.version, copied
	return nil
}

func (e *boltEngine) keepCopy(version int) (path string, err error) {
	err = e.db.View(func(tx *bbolt.Tx) error {
		path, err = writeCopy(tx, fmt.Sprintf("%s.schema-%d", e.db.Path(), version))
		return err
	})
	return path, err
}

func (e *boltEngine) readOld(version int) (*Records, error) {
	tx, err := e.db.Begin(true)
	if err != nil {
		return nil, err
	}
	r, err := loadOld(tx, version)
	return r, errors.Join(err, tx.Rollback())
}

// storedVersion returns the schema version of the file. A new file has version 0.
func storedVersion(tx transaction) (version int, err error) {
	text := tx.get(bucketMeta, keySchema)
	if text == nil {
		return 0, nil
	}
	if version, err = strconv.Atoi(string(text)); err != nil {
		return 0, unreadable("the schema version", err)
	}
	return version, nil
}

// writeCopy writes a copy of the database to stable storage and returns its path: name, or name.2
// and so on while that is another file. It keeps an equal copy, which an interrupted migration
// leaves.
func writeCopy(tx *bbolt.Tx, name string) (path string, err error) {
	content := sha256.New()
	if _, err := tx.WriteTo(content); err != nil {
		return "", err
	}
	path = name
	for n := 2; ; n++ {
		existing, err := hashFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return path, durable.Replace(path, 0o600, func(w io.Writer) error {
				_, err := tx.WriteTo(w)
				return err
			})
		case err != nil:
			return "", err
		case bytes.Equal(existing, content.Sum(nil)):
			return path, durable.SyncDir(filepath.Dir(path)) // a kill can have come before that
		}
		path = fmt.Sprintf("%s.%d", name, n)
	}
}

func hashFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}
