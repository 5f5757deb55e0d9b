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
//   - Every record is sealed with a data key that only the token can unseal, and bound to its place. A sealed
//     head covers all of them. If a record is changed, moved, removed or brought back behind the Store's
//     back, the file cannot be opened, and an open one cannot be changed any more.
//
// Records are values. The byte slices and maps that they refer to are shared and must not be
// modified.
package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kmsgate/kmsgate/hsm"
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
	// ErrSealed means that the data key could not be unsealed.
	ErrSealed = errors.New("the database's key cannot be unsealed")
	// ErrTampered means that somebody else has changed the records.
	ErrTampered = errors.New("the records were not written by this gateway")
	// ErrDamaged means that the file's content is not what kmsgate wrote.
	ErrDamaged = bboltcheck.ErrDamaged
)

// newStore returns a Store without records.
func newStore(f *File, o Options) *Store {
	o.Timeout = cmp.Or(o.Timeout, updateTimeout)
	s := &Store{path: f.path, options: o, engine: f.engine, updating: make(chan struct{}, 1), closing: make(chan struct{})}
	s.closeOnce = sync.OnceValue(s.close)
	s.unlock()
	return s
}

const restoreAdvice = "(restore it from a backup: kmsgate restore)"

// A Store is an open database. It is safe for concurrent use.
type Store struct {
	path    string
	options Options
	engine  engine // guarded by updating
	sealer  sealer
	current atomic.Pointer[Records] // replaced while updating is held, read at any time

	sealedKey  []byte // the data key, as it is in the engine
	head       head   // guarded by updating, as sealedHead is
	sealedHead []byte // as it is in the engine

	// updating holds a token while nobody changes records. The caller that has taken the token has the lock,
	// from the fork of the records until the result is published. bbolt's lock is not enough: bbolt
	// releases it before the commit can be published, and the next writer would fork outdated records.
	updating chan struct{}
	since    atomic.Pointer[time.Time] // when updating was taken; nil while it is free

	faults     faults
	closing    chan struct{}
	closeOnce  func() error
	background sync.WaitGroup // mend

	migratedFrom int // see Migrated
	migratedCopy string
}

// Options configure a Store. The zero value suits a gateway.
type Options struct {
	// Timeout is how long Update takes at most, the wait for earlier changes included. Zero means 5 s. Tests that
	// do not expect it to pass choose a long one: their machine can be busy.
	Timeout time.Duration
	// Rerun makes Update call each function twice, the first time with records that are then discarded. It is for
	// tests: an engine may have to repeat a change.
	Rerun bool
	// Commit, if not nil, is called in place of each commit, and calls commit to make it. Tests use it to make the
	// disk fail or hang.
	Commit func(commit func() error) error
}

// Open opens the file at path, whose data key keys can unseal: see [OpenFile] and [File.Unseal].
func Open(ctx context.Context, path string, keys hsm.Sealer, o Options) (*Store, error) {
	f, err := OpenFile(path)
	if err != nil {
		return nil, err
	}
	return f.Unseal(ctx, keys, o)
}

// Close closes the file once a change that is being made has ended, but waits at most Options.Timeout for
// that. After that, changes fail.
func (s *Store) Close() error { return s.closeOnce() }

func (s *Store) close() error {
	close(s.closing)
	select {
	case <-s.updating: // and never given back
	case <-time.After(s.options.Timeout):
		return fmt.Errorf("the database %q was not closed: a change has not ended for %v (check the disk)", s.path, s.options.Timeout)
	}
	closed := make(chan error, 1)
	go func() {
		err := s.engine.close()
		s.background.Wait()
		closed <- err
	}()
	select {
	case err := <-closed:
		return err
	case <-time.After(s.options.Timeout): // bbolt has panicked in a commit and holds its lock, or a flush hangs
		return fmt.Errorf("the database %q was not closed within %v", s.path, s.options.Timeout)
	}
}

// Now returns the records at this moment. They are read-only, and later changes do not affect them.
func (s *Store) Now() *Records { return s.current.Load() }

// updateTimeout is the default of Options.Timeout. SDKs give up after 10 s.
const updateTimeout = 5 * time.Second

// Update calls f with a transaction in which records can be changed. If f returns nil, the changes
// are on stable storage when Update returns nil. If f returns an error, Update returns that error
// and nothing has changed. Updates run one at a time. If f must wait for others longer than
// Options.Timeout, or the file cannot be written, the error is ErrUnwritable. If the commit takes longer
// than that, or if it fails and its outcome is not known yet, the error is ErrUncertain.
func (s *Store) Update(f func(tx *Tx) error) error { return s.UpdateLate(f, nil) }

// UpdateLate is like Update. If it returns ErrUncertain because the commit takes too long, it calls late,
// once, with the commit's error when the commit has ended. late must not change records.
func (s *Store) UpdateLate(f func(tx *Tx) error, late func(err error)) error {
	deadline := time.NewTimer(s.options.Timeout)
	defer deadline.Stop()
	u, err := s.begin(deadline.C)
	if err != nil {
		return err
	}
	u.late = late
	if err := u.run(f); err != nil {
		return err
	}
	if len(u.tx.writes) == 0 {
		s.unlock()
		return nil
	}
	done := make(chan error, 1)
	go func() { done <- u.commit() }()
	select {
	case err := <-done:
		return err
	case <-deadline.C:
	}
	if u.answered.CompareAndSwap(false, true) {
		return fmt.Errorf("%w: the file %q has not been flushed for %v", ErrUncertain, s.path, s.options.Timeout)
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
	tx       *Tx
	late     func(err error) // nil if nobody wants to know
	answered atomic.Bool     // Update has returned, or commit has decided that it will return its error
}

// begin takes the lock.
func (s *Store) begin(giveUp <-chan time.Time) (*update, error) {
	if err := s.Status().Failing; err != nil { // do not wait for a disk that hangs
		return nil, fmt.Errorf("%w: %w", ErrUnwritable, err)
	}
	if !s.lock(giveUp) {
		return nil, fmt.Errorf("%w: an earlier change has not ended", ErrUnwritable)
	}
	if err := s.failure(); err != nil {
		s.unlock()
		return nil, fmt.Errorf("%w: %w", ErrUnwritable, err)
	}
	return &update{store: s}, nil
}

// run calls f. Unless it returns nil, the update has ended.
func (u *update) run(f func(tx *Tx) error) error {
	ended := true
	defer func() {
		if ended { // by an error, or by a panic of f
			u.store.unlock()
		}
	}()
	if u.store.options.Rerun {
		if err := u.try(f); err != nil {
			return err
		}
	}
	if err := u.try(f); err != nil {
		return err
	}
	ended = false
	return nil
}

// try calls f with a new transaction.
func (u *update) try(f func(tx *Tx) error) error {
	u.tx = &Tx{Records: u.store.current.Load().fork(), writes: make(map[place][]byte)}
	u.tx.number++
	defer func() { u.tx.done = true }()
	err := f(u.tx)
	if n := len(u.tx.writes); err == nil && n > MaxWrites {
		err = fmt.Errorf("a change of %d records is greater than the limit of %d", n, MaxWrites)
	}
	return err
}

// commit commits the transaction and publishes the records. It releases the lock.
func (u *update) commit() (err error) {
	s := u.store
	defer s.unlock()
	err = s.write(u.tx)
	if err == nil {
		s.current.Store(u.tx.Records)
	}
	if !u.answered.CompareAndSwap(false, true) && u.late != nil {
		u.late(err)
	}
	return err
}

// write seals the writes of a transaction, and makes them together with a new head.
func (s *Store) write(tx *Tx) (err error) {
	defer func() {
		if errors.Is(err, ErrTampered) && !errors.Is(err, ErrUnwritable) {
			err = fmt.Errorf("%w: %w", ErrUnwritable, err)
		}
	}()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer s.catchDamage(&err)
	if err := s.checkUnaltered(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnwritable, err)
	}
	change, err := s.engine.begin()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnwritable, err)
	}
	next := head{N: tx.number, TxId: tx.id, Schema: schemaVersion, D: s.head.D}
	for where, value := range tx.writes {
		if err := s.checkPresence(change, where); err != nil {
			change.rollback()
			return fmt.Errorf("%w: %w", ErrUnwritable, err)
		}
		if err := s.put(change, &next, where, value); err != nil {
			change.rollback()
			return fmt.Errorf("%w: %w", ErrUnwritable, err)
		}
	}
	sealed, err := s.sealer.putHead(change, next)
	if err != nil {
		change.rollback()
		return fmt.Errorf("%w: %w", ErrUnwritable, err)
	}
	commit := change.commit
	if f := s.options.Commit; f != nil {
		commit = func() error { return f(change.commit) }
	}
	if err := commit(); err != nil {
		return s.handleFailure(err)
	}
	s.head, s.sealedHead = next, sealed
	return nil
}

// checkPresence refuses to replace a record that somebody else has removed, or added, since it was read.
// Otherwise, a record that was removed before its deletion could be brought back: the digest would still
// have it.
func (s *Store) checkPresence(tx transaction, p place) error {
	k, ok := kindOf[p.bucket]
	if !ok || k.has(s.current.Load(), p.id) == (tx.get(p.bucket, p.id) != nil) {
		return nil
	}
	return s.setTampered(tampered("record %q in bucket %q was removed or added", p.id, p.bucket))
}

// put seals and writes one value, and updates the digest.
func (s *Store) put(tx transaction, next *head, p place, value []byte) error {
	if value != nil && !inClear(p.bucket, p.id) {
		value = s.sealer.seal(p.bucket, p.id, value)
	}
	next.D = s.sealer.replace(next.D, p.bucket, p.id, tx.get(p.bucket, p.id), value)
	if value == nil {
		return tx.delete(p.bucket, p.id)
	}
	return tx.put(p.bucket, p.id, value)
}
