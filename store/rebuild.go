package store

import (
	"fmt"
	"sync/atomic"
	"time"
)

// faults are what has failed in writing the file.
type faults struct {
	tampered atomic.Pointer[error] // why the records are not those of this gateway; nil if they are
	failing  atomic.Pointer[error] // why the file cannot be written; nil if it can
	last     atomic.Pointer[error] // of the last commit that failed
	count    atomic.Int64
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

// Tampered returns ErrTampered if somebody else has changed the records, and nil otherwise.
func (s *Store) Tampered() error {
	if tampered := s.faults.tampered.Load(); tampered != nil {
		return *tampered
	}
	return nil
}

// failure returns why the file cannot be written, or nil.
func (s *Store) failure() error {
	if err := s.Tampered(); err != nil {
		return err
	}
	if failing := s.faults.failing.Load(); failing != nil {
		return *failing
	}
	return nil
}

// mendInterval is the time between two attempts to rewrite the file.
const mendInterval = time.Second

// handleFailure handles the failure of a commit, and returns Update's error for it. The caller has the lock.
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

// rebuild makes the engine hold the current records. The caller has the lock.
func (s *Store) rebuild() error {
	r := s.current.Load()
	return s.engine.rewrite(func(tx transaction) error { return s.fill(tx, r) })
}
