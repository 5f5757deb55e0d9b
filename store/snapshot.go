package store

import (
	"fmt"
	"io"
	"time"

	"go.etcd.io/bbolt"
)

// A Snapshot is the database file at one moment, to be copied. Changes continue while it is open,
// and the file keeps growing because bbolt cannot reuse the pages that they replace.
type Snapshot struct{ bolt *bbolt.Tx }

// Snapshot returns a Snapshot with all changes for which Update has returned. The caller must close
// it. While the file cannot be written, Snapshot returns ErrUnwritable, because the file's content is
// unknown.
func (s *Store) Snapshot() (*Snapshot, error) {
	if !s.lock(time.After(s.options.Timeout)) { // a snapshot must not fall between a commit and its publication
		return nil, fmt.Errorf("%w: an earlier change has not ended", ErrUnwritable)
	}
	defer s.unlock()
	if err := s.failure(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnwritable, err)
	}
	if err := s.checkUnaltered(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnwritable, err)
	}
	snapshot, err := s.engine.snapshot()
	if err != nil {
		return nil, fmt.Errorf("beginning a database snapshot: %w", err)
	}
	return snapshot, nil
}

func (e *boltEngine) snapshot() (*Snapshot, error) {
	bolt, err := e.db.Begin(false)
	if err != nil {
		return nil, err
	}
	return &Snapshot{bolt}, nil
}

// Size returns the number of bytes that WriteTo writes.
func (s *Snapshot) Size() int64 { return s.bolt.Size() }

// WriteTo writes a database file that Open can open.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) { return s.bolt.WriteTo(w) }

// Close releases the snapshot. It may be called more than once.
func (s *Snapshot) Close() error {
	if s.bolt == nil {
		return nil
	}
	err := s.bolt.Rollback()
	s.bolt = nil
	return err
}
