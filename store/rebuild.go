package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"

	"github.com/kmsgate/kmsgate/internal/durable"
)

// faults are what has failed in writing the file.
type faults struct {
	failing atomic.Pointer[error] // why the file cannot be written; nil if it can
	last    atomic.Pointer[error] // of the last commit that failed
	count   atomic.Int64
}

// A Status says whether the file can be written.
type Status struct {
	Failing   error         // why no change can be made; nil if changes can be made
	Waiting   time.Duration // how long the oldest change has been waiting for the disk
	Faults    int64         // commits that have failed since Open
	LastFault error         // of the last of them
}

// stalledAfter is how long a change waits for the disk before Status calls that a failure.
const stalledAfter = 2500 * time.Millisecond

// Status returns the current Status. It never waits.
func (s *Store) Status() Status {
	st := Status{Failing: s.failure(), Faults: s.faults.count.Load()}
	if last := s.faults.last.Load(); last != nil {
		st.LastFault = *last
	}
	if since := s.since.Load(); since != nil {
		st.Waiting = time.Since(*since)
	}
	if st.Failing == nil && st.Waiting > stalledAfter {
		st.Failing = fmt.Errorf("the database %q has not been flushed for %v (check the disk)", s.path,
			st.Waiting.Round(time.Second))
	}
	return st
}

// failure returns why the file cannot be written, or nil.
func (s *Store) failure() error {
	if failing := s.faults.failing.Load(); failing != nil {
		return *failing
	}
	return nil
}

// mendInterval is the time between two attempts to rewrite the file.
const mendInterval = time.Second

// handleFailure handles the failure of a commit, and returns Update's error for it. The content of the file
// is no longer trusted: perhaps the pages were written and only the flush failed, and after a failed flush the
// kernel may have dropped the pages and marked them clean. The caller has the lock.
func (s *Store) handleFailure(failure error) error {
	s.faults.count.Add(1)
	s.faults.last.Store(&failure)
	if err := s.rebuild(); err == nil {
		return fmt.Errorf("%w: %w", ErrUnwritable, failure)
	}
	failing := fmt.Errorf("writing the database %q: %w (check the disk; the gateway tries again every second)", s.path, failure)
	s.faults.failing.Store(&failing)
	s.background.Go(s.mend)
	return fmt.Errorf("%w: %w", ErrUncertain, failure)
}

// mend rebuilds the file as soon as possible.
func (s *Store) mend() {
	tick := time.NewTicker(mendInterval)
	defer tick.Stop()
	for {
		select {
		case <-s.closing:
			return
		case <-tick.C:
		}
		if !s.lock(nil) {
			return
		}
		err := s.rebuild()
		if err == nil {
			s.faults.failing.Store(nil)
		}
		s.unlock()
		if err == nil {
			return
		}
	}
}

// rebuiltName returns the name of the file that rebuild writes.
func rebuiltName(path string) string { return path + ".rebuilt" }

// rebuild replaces the file by a new one with the current records. If it fails, the old file is still
// open, and it is uncertain which of them is at the path. The caller has the lock.
func (s *Store) rebuild() error {
	name := rebuiltName(s.path)
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	db, err := s.writeAll(name)
	if err != nil {
		return errors.Join(err, os.Remove(name))
	}
	if err := errors.Join(os.Rename(name, s.path), durable.SyncDir(filepath.Dir(s.path))); err != nil {
		return errors.Join(err, db.Close())
	}
	old := s.db
	s.db = db
	s.background.Go(func() { _ = old.Close() }) // waits for snapshots; its content does not matter any more
	return nil
}

// writeAll writes the current records to a new file, flushes it and leaves it open.
func (s *Store) writeAll(name string) (*bbolt.DB, error) {
	o := options()
	o.NoSync, o.NoGrowSync = true, true
	db, err := bbolt.Open(name, 0o600, o)
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bbolt.Tx) error { return save(tx, s.current.Load()) })
	if err == nil {
		err = db.Sync()
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	db.NoSync, db.NoGrowSync, db.AllocSize = false, false, allocation
	return db, nil
}

// save writes all records to an empty file.
func save(tx *bbolt.Tx, r *Records) error {
	meta, err := tx.CreateBucket(bucketMeta)
	if err != nil {
		return err
	}
	err = meta.Put(keySchema, []byte(strconv.Itoa(schemaVersion)))
	for key, field := range metaFields(r) {
		err = errors.Join(err, putJSON(meta, key, field))
	}
	for _, k := range kinds {
		err = errors.Join(err, k.save(tx, r))
	}
	return err
}
