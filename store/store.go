// Package store keeps the records in one bbolt file: keys, versions, aliases, users and their
// access keys, access points and their client keys.
//
// It guarantees:
//
//   - A change is atomic, and is on stable storage when [Store.Update] returns.
//   - If a commit fails, the file is rewritten from the records in memory, so that the change is
//     known not to have happened. Until that succeeds, changes are refused and reading continues.
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
	"io/fs"
	"os"
	"path/filepath"
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
	// ErrNonceUsed means that a nonce was used, or may have been.
	ErrNonceUsed = errors.New("the nonce was used")
	// ErrUncertain means that a commit failed or has not ended in time. Whether it takes place is known
	// once the Store can be changed again, or when the file is opened again.
	ErrUncertain = errors.New("a database commit failed or has not ended, and its outcome is not known yet")
	// ErrUnwritable means that the file cannot be written and that nothing was changed. The Store tries
	// again until it can.
	ErrUnwritable = errors.New("the database cannot be written; nothing was changed")
	// ErrLocked means that another process has the file open.
	ErrLocked = errors.New("the database is in use by another process")
	// ErrDamaged means that the file's content is not what kmsgate wrote.
	ErrDamaged = bboltcheck.ErrDamaged
)

const restoreAdvice = "(restore it from a backup: kmsgate restore)"

// A Store is an open database. It is safe for concurrent use.
type Store struct {
	path    string
	db      *bbolt.DB               // replaced by rebuild; guarded by updating
	current atomic.Pointer[Records] // replaced while updating is held, read at any time

	// updating holds a token while nobody changes records. The caller that has taken the token has the lock,
	// from the fork of the records until the result is published. bbolt's lock is not enough: bbolt
	// releases it before the commit can be published, and the next writer would fork outdated records.
	updating chan struct{}
	since    atomic.Pointer[time.Time] // when updating was taken; nil while it is free

	commit     func(*bbolt.Tx) error // (*bbolt.Tx).Commit, except in tests; guarded by updating
	faults     faults
	closing    chan struct{}
	closeOnce  func() error
	background sync.WaitGroup // mend, and the closing of files that rebuild has replaced

	migratedFrom int // see Migrated
	migratedCopy string
}

// Open opens the file at path and creates it with mode 0600 if it does not exist. Open refuses a
// file with a newer schema version. It migrates a file with an older one, after it has copied the
// file to PATH.schema-VERSION: see [Store.Migrated]. Without the copy it changes nothing. The error
// for a damaged file is ErrDamaged, and that for a file in use by another process is ErrLocked.
func Open(path string) (*Store, error) {
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		path = resolved // rebuild replaces the file itself
	}
	switch err := bboltcheck.Check(path); {
	case errors.Is(err, durable.ErrLocked):
		return nil, fmt.Errorf("opening the database %q: %w", path, ErrLocked)
	case errors.Is(err, ErrDamaged):
		return nil, fmt.Errorf("opening the database %q: %w %s", path, err, restoreAdvice)
	case err != nil:
		return nil, fmt.Errorf("opening the database %q: %w", path, err)
	}
	db, err := bbolt.Open(path, 0o600, options())
	if errors.Is(err, bberrors.ErrTimeout) {
		return nil, fmt.Errorf("opening the database %q: %w", path, ErrLocked)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the database %q: %w", path, err)
	}
	if err := os.Remove(rebuiltName(path)); err != nil && !errors.Is(err, fs.ErrNotExist) { // a kill leaves it
		return nil, errors.Join(fmt.Errorf("opening the database %q: %w", path, err), db.Close())
	}
	db.AllocSize = allocation
	s := &Store{path: path, db: db, updating: make(chan struct{}, 1), commit: (*bbolt.Tx).Commit, closing: make(chan struct{})}
	s.closeOnce = sync.OnceValue(s.close)
	s.unlock()
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("reading the database %q: %w", path, err), db.Close())
	}
	return s, nil
}

const (
	initialMapping = 1 << 30 // bytes: some 500,000 keys
	allocation     = 1 << 20 // bytes by which the file grows
)

func options() *bbolt.Options {
	// Writing the list of free pages at every commit would cost more as the records grow in number.
	// bbolt computes it at opening instead.
	// A file that outgrows its mapping cannot be written while a Snapshot is open. Address space is free.
	return &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType, NoFreelistSync: true,
		InitialMmapSize: initialMapping}
}

func (s *Store) load() error {
	if err := s.keepCopy(); err != nil {
		return err
	}
	first := &Records{keyAliases: new(btree.Set[string])}
	err := s.db.Update(func(tx *bbolt.Tx) error {
		version, err := migrate(tx)
		if err != nil {
			return err
		}
		for key, field := range metaFields(first) {
			if value := tx.Bucket(bucketMeta).Get([]byte(key)); value != nil {
				if err := json.Unmarshal(value, field); err != nil {
					return unreadable(fmt.Sprintf("record %q in bucket %q", key, bucketMeta), err)
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

// Close closes the file once a change that is being made has ended, but waits at most 5 s for that. After
// that, changes fail.
func (s *Store) Close() error { return s.closeOnce() }

func (s *Store) close() error {
	close(s.closing)
	select {
	case <-s.updating: // and never given back
	case <-time.After(updateTimeout):
		return fmt.Errorf("the database %q was not closed: a change has not ended for %v (check the disk)", s.path, updateTimeout)
	}
	closed := make(chan error, 1)
	go func() {
		err := s.db.Close()
		s.background.Wait()
		closed <- err
	}()
	select {
	case err := <-closed:
		return err
	case <-time.After(updateTimeout): // bbolt has panicked in a commit and holds its lock, or a flush hangs
		return fmt.Errorf("the database %q was not closed within %v", s.path, updateTimeout)
	}
}

// Now returns the records at this moment. They are read-only, and later changes do not affect them.
func (s *Store) Now() *Records { return s.current.Load() }

// updateTimeout is how long Update takes at most, the wait for earlier changes included. SDKs give up
// after 10 s.
const updateTimeout = 5 * time.Second

// Update calls f with a transaction in which records can be changed. If f returns nil, the changes
// are on stable storage when Update returns nil. If f returns an error, Update returns that error
// and nothing has changed. Updates run one at a time. If f must wait for others longer than 5 s, or
// the file cannot be written, the error is ErrUnwritable. If the commit takes longer than these 5 s,
// or if it fails and its outcome is not known yet, the error is ErrUncertain.
func (s *Store) Update(f func(tx *Tx) error) error { return s.UpdateLate(f, nil) }

// UpdateLate is like Update. If it returns ErrUncertain because the commit takes too long, it calls late,
// once, with the commit's error when the commit has ended. late must not change records.
func (s *Store) UpdateLate(f func(tx *Tx) error, late func(err error)) error {
	deadline := time.NewTimer(updateTimeout)
	defer deadline.Stop()
	u, err := s.begin(deadline.C)
	if err != nil {
		return err
	}
	u.late = late
	if err := u.run(f); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- u.commit() }()
	select {
	case err := <-done:
		return err
	case <-deadline.C:
	}
	if u.answered.CompareAndSwap(false, true) {
		return fmt.Errorf("%w: the file %q has not been flushed for %v", ErrUncertain, s.path, updateTimeout)
	}
	return <-done
}

// lock takes the lock, and reports false if giveUp comes first.
func (s *Store) lock(giveUp <-chan time.Time) bool {
	select {
	case <-s.updating:
	case <-giveUp:
		return false
	case <-s.closing:
		return false
	}
	now := time.Now()
	s.since.Store(&now)
	return true
}

func (s *Store) unlock() {
	s.since.Store(nil)
	s.updating <- struct{}{}
}

// An update is one call of Update. It has the lock.
type update struct {
	store    *Store
	bolt     *bbolt.Tx
	tx       *Tx
	late     func(err error) // nil if nobody wants to know
	answered atomic.Bool     // Update has returned, or commit has decided that it will return its error
}

// begin takes the lock and begins a transaction.
func (s *Store) begin(giveUp <-chan time.Time) (*update, error) {
	if err := s.Status().Failing; err != nil { // do not wait for a disk that hangs
		return nil, fmt.Errorf("%w: %w", ErrUnwritable, err)
	}
	if !s.lock(giveUp) {
		return nil, fmt.Errorf("%w: an earlier change has not ended", ErrUnwritable)
	}
	err := s.failure()
	if err == nil {
		var bolt *bbolt.Tx
		if bolt, err = s.db.Begin(true); err == nil {
			return &update{store: s, bolt: bolt, tx: &Tx{Records: s.current.Load().fork(), bolt: bolt}}, nil
		}
	}
	s.unlock()
	return nil, fmt.Errorf("%w: %w", ErrUnwritable, err)
}

// run calls f. Unless it returns nil, the transaction has ended.
func (u *update) run(f func(tx *Tx) error) error {
	ended := true
	defer func() {
		u.tx.done = true
		if ended { // by an error, or by a panic of f
			_ = u.bolt.Rollback()
			u.store.unlock()
		}
	}()
	if err := f(u.tx); err != nil {
		return err
	}
	ended = false
	return nil
}

// commit commits the transaction and publishes the records. It releases the lock.
func (u *update) commit() (err error) {
	s := u.store
	defer s.unlock()
	if failure := u.flush(); failure == nil {
		s.current.Store(u.tx.Records)
	} else {
		err = s.handleFailure(failure)
	}
	if !u.answered.CompareAndSwap(false, true) && u.late != nil {
		u.late(err)
	}
	return err
}

// flush commits the transaction. bbolt panics where it finds the file damaged.
func (u *update) flush() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in the commit: %v", p)
		}
	}()
	return u.store.commit(u.bolt)
}
