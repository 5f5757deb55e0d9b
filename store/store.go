// Package store keeps the records: keys, versions, aliases, users and their access
// keys, access points and their client keys, in one bbolt file.
//
// It guarantees that a change is either wholly there or not at all, and is on
// stable storage when Update returns; that a reader sees all records as they
// were at one moment; and that reading takes no lock and does no I/O, because
// all records are also in memory. Nothing in the file is secret in the clear:
// access-key secrets and software keys are sealed by the token.
//
// Records are values. What they hold by reference (byte slices, maps) is shared and
// must not be modified.
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
	// ErrNotFound: there is no such record.
	ErrNotFound = errors.New("no such record")
	// ErrExists: there is such a record already.
	ErrExists = errors.New("record exists already")
	// ErrUncertain: a commit failed, and whether its changes are in the file will
	// be known when it is opened again. Until then nothing can be changed.
	ErrUncertain = errors.New("a change of the database failed and may or may not be there: restart to find out")
	// ErrLocked: another process has the file open.
	ErrLocked = errors.New("the database is in use by another process")
	// ErrDamaged: kmsgate did not write the file as it is.
	ErrDamaged = bboltcheck.ErrDamaged
)

const restoreAdvice = "restore it from a backup (kmsgate restore)"

// A Store is an open database. Its methods may be called from any goroutine.
type Store struct {
	db      *bbolt.DB
	current atomic.Pointer[Records] // replaced while updating is held, read at any time

	// updating is held from the fork of the records until the result is
	// published. bbolt's own lock is not enough: it is released before a commit
	// can be published, and the next writer would fork what came before.
	updating sync.Mutex
	ruined   error // set for good when a commit failed; guarded by updating
}

// Open opens the file at path, creating it with mode 0600 if there is none. A
// file that was written by a newer version of the schema is refused, and so is a
// damaged one, which is ErrDamaged.
func Open(path string) (*Store, error) {
	switch err := bboltcheck.Check(path); {
	case errors.Is(err, durable.ErrLocked):
		return nil, fmt.Errorf("%w: %s", ErrLocked, path)
	case errors.Is(err, ErrDamaged):
		return nil, fmt.Errorf("opening %s: %w: %s", path, err, restoreAdvice)
	case err != nil:
		return nil, fmt.Errorf("opening the database %s: %w", path, err)
	}
	// The list of free pages is found at opening and not written at every
	// commit, which would cost more the more records there are.
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType, NoFreelistSync: true})
	if errors.Is(err, bberrors.ErrTimeout) {
		return nil, fmt.Errorf("%w: %s", ErrLocked, path)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the database %s: %w", path, err)
	}
	s := &Store{db: db}
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("reading the database %s: %w", path, err), db.Close())
	}
	return s, nil
}

func (s *Store) load() error {
	first := &Records{aliasesOf: new(btree.Set[string])}
	err := s.db.Update(func(tx *bbolt.Tx) error {
		before, err := migrate(tx)
		if err != nil {
			return err
		}
		for key, into := range map[*[]byte]any{&keyInstance: &first.instance, &keyAuditKey: &first.auditKey, &keyAuditHead: &first.auditHead} {
			if value := tx.Bucket(bucketMeta).Get(*key); value != nil {
				if err := json.Unmarshal(value, into); err != nil {
					return unreadable(string(*key), err)
				}
			}
		}
		for _, k := range kinds {
			if err := k.open(tx, before, first); err != nil {
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

// unreadable reports that a record cannot be read.
func unreadable(record string, err error) error {
	return fmt.Errorf("%w: %s: %w: %s", ErrDamaged, record, err, restoreAdvice)
}

// Close closes the file.
func (s *Store) Close() error { return s.db.Close() }

// Now returns the records as they are at this moment. They stay as they are: what is
// changed later is in what Now returns later. Nothing can be written through them.
func (s *Store) Now() *Records { return s.current.Load() }

// Update calls f with a transaction in which records can be changed. If f
// returns nil the changes are on stable storage when Update does; if it returns
// an error, that error is returned and nothing has changed. If the commit itself
// fails it is ErrUncertain, and so is every Update after it. Updates run one at
// a time.
func (s *Store) Update(f func(tx *Tx) error) error {
	s.updating.Lock()
	defer s.updating.Unlock()
	if s.ruined != nil {
		return s.ruined
	}
	bolt, err := s.db.Begin(true)
	if err != nil {
		return fmt.Errorf("beginning a change of the database: %w", err)
	}
	defer bolt.Rollback() // after Commit it does nothing
	tx := &Tx{Records: s.current.Load().fork(), bolt: bolt}
	defer func() { tx.done = true }()
	if err := f(tx); err != nil {
		return err
	}
	if err := bolt.Commit(); err != nil {
		// The pages may be written and only their flush have failed; bbolt
		// would go on from them, and the records from what was before.
		s.ruined = fmt.Errorf("%w: %w", ErrUncertain, err)
		return s.ruined
	}
	s.current.Store(tx.Records)
	return nil
}
