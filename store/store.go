// Package store keeps the records in one bbolt file: keys, versions, aliases, users and their
// access keys, access points and their client keys.
//
// It guarantees:
//
//   - A change is atomic, and is on stable storage when [Store.Update] returns.
//   - A reader sees all records as they were at one moment.
//   - Reading takes no lock and does no I/O, because all records are also in memory.
//   - The file holds no secret in the clear. The token seals access-key secrets and software keys.
//
// Records are values. The byte slices and maps that they refer to are shared and must not be
// modified.
package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidwall/btree"
	"go.etcd.io/bbolt"
	bberrors "go.etcd.io/bbolt/errors"

	"github.com/kmsgate/kmsgate/internal/durable"
	"github.com/kmsgate/kmsgate/store/bboltcheck"
)

var (
	// ErrNotFound means that the record does not exist.
	ErrNotFound = errors.New("no such record")
	// ErrExists means that the record already exists.
	ErrExists = errors.New("record already exists")
	// ErrUncertain means that a commit failed. Only opening the file again shows whether it
	// contains the commit's changes. Until then the Store accepts no more changes.
	ErrUncertain = errors.New("a database commit failed with unknown outcome (restart kmsgate to reload the database)")
	// ErrLocked means that another process has the file open.
	ErrLocked = errors.New("the database is in use by another process")
	// ErrDamaged means that the file's content is not what kmsgate wrote.
	ErrDamaged = bboltcheck.ErrDamaged
)

const restoreAdvice = "(restore it from a backup: kmsgate restore)"

// A Store is an open database. It is safe for concurrent use.
type Store struct {
	db      *bbolt.DB
	current atomic.Pointer[Records] // replaced while updating is held, read at any time

	// updating is held from the fork of the records until the result is published. bbolt's lock is
	// not enough: bbolt releases it before the commit can be published, and the next writer would
	// fork outdated records.
	updating  sync.Mutex
	commitErr error // the first failure of a commit, kept permanently; guarded by updating
}

// Open opens the file at path and creates it with mode 0600 if it does not exist. Open refuses a
// file with a newer schema version. The error for a damaged file is ErrDamaged, and that for a file
// in use by another process is ErrLocked.
func Open(path string) (*Store, error) {
	switch err := bboltcheck.Check(path); {
	case errors.Is(err, durable.ErrLocked):
		return nil, fmt.Errorf("opening the database %q: %w", path, ErrLocked)
	case errors.Is(err, ErrDamaged):
		return nil, fmt.Errorf("opening the database %q: %w %s", path, err, restoreAdvice)
	case err != nil:
		return nil, fmt.Errorf("opening the database %q: %w", path, err)
	}
	// Writing the list of free pages at every commit would cost more as the records grow in number.
	// bbolt computes it at opening instead.
	options := &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType, NoFreelistSync: true}
	db, err := bbolt.Open(path, 0o600, options)
	if errors.Is(err, bberrors.ErrTimeout) {
		return nil, fmt.Errorf("opening the database %q: %w", path, ErrLocked)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the database %q: %w", path, err)
	}
	s := &Store{db: db}
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("reading the database %q: %w", path, err), db.Close())
	}
	return s, nil
}

func (s *Store) load() error {
	first := &Records{keyAliases: new(btree.Set[string])}
	err := s.db.Update(func(tx *bbolt.Tx) error {
		version, err := migrate(tx)
		if err != nil {
			return err
		}
		for key, field := range map[*[]byte]any{
			&keyInstance: &first.instance, &keyAuditKey: &first.auditKey, &keyAuditHead: &first.auditHead,
		} {
			if value := tx.Bucket(bucketMeta).Get(*key); value != nil {
				if err := json.Unmarshal(value, field); err != nil {
					return unreadable(fmt.Sprintf("record %q in bucket %q", *key, bucketMeta), err)
				}
			}
		}
		for _, k := range kinds {
			if err := k.load(tx, version, first); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.current.Store(first)
	return nil
}

// unreadable returns the error for a record that cannot be decoded.
func unreadable(record string, err error) error {
	return fmt.Errorf("%w: decoding %s: %w %s", ErrDamaged, record, err, restoreAdvice)
}

// Close closes the file.
func (s *Store) Close() error { return s.db.Close() }

// Now returns the records at this moment. They are read-only, and later changes do not affect them.
func (s *Store) Now() *Records { return s.current.Load() }

// Update calls f with a transaction in which records can be changed. If f returns nil, the changes
// are on stable storage when Update returns nil. If f returns an error, Update returns that error
// and nothing has changed. If the commit fails, Update returns ErrUncertain, as does every later
// Update. Updates run one at a time.
func (s *Store) Update(f func(tx *Tx) error) error {
	s.updating.Lock()
	defer s.updating.Unlock()
	if s.commitErr != nil {
		return s.commitErr
	}
	bolt, err := s.db.Begin(true)
	if err != nil {
		return fmt.Errorf("beginning a database transaction: %w", err)
	}
	defer bolt.Rollback() // does nothing after Commit
	tx := &Tx{Records: s.current.Load().fork(), bolt: bolt}
	defer func() { tx.done = true }()
	if err := f(tx); err != nil {
		return err
	}
	if err := bolt.Commit(); err != nil {
		// Perhaps the pages were written and only the flush failed. bbolt would then continue with
		// the new pages, but the records in memory are the old ones.
		s.commitErr = fmt.Errorf("%w: %w", ErrUncertain, err)
		return s.commitErr
	}
	s.current.Store(tx.Records)
	return nil
}
