package store

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"go.etcd.io/bbolt"

	"github.com/kmsgate/kmsgate/internal/durable"
)

// SchemaVersion is the schema version of the files that this package writes. Open migrates files of
// earlier versions to it.
const SchemaVersion = schemaVersion

// Migrated returns the schema version that the file had before Open migrated it, and the path of
// the copy that Open made before it changed anything. from is 0 if Open migrated nothing.
func (s *Store) Migrated() (from int, copied string) { return s.migratedFrom, s.migratedCopy }

// keepCopy copies the file, if it is one to migrate. It changes nothing else.
func (s *Store) keepCopy() error {
	return s.db.View(func(tx *bbolt.Tx) error {
		version, err := storedVersion(tx)
		if err != nil || version <= 0 || version >= schemaVersion {
			return err
		}
		path, err := writeCopy(tx, fmt.Sprintf("%s.schema-%d", s.db.Path(), version))
		if err != nil {
			return fmt.Errorf("nothing was changed: copying it, before migrating it from schema version %d to %d: %w "+
				"(the directory needs space for a copy)", version, schemaVersion, err)
		}
		s.migratedFrom, s.migratedCopy = version, path
		return nil
	})
}

// storedVersion returns the schema version of the file. A new file has version 0.
func storedVersion(tx *bbolt.Tx) (version int, err error) {
	meta := tx.Bucket(bucketMeta)
	if meta == nil {
		return 0, nil
	}
	text := meta.Get(keySchema)
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
