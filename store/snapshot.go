package store

import (
	"fmt"
	"io"

	"go.etcd.io/bbolt"
)

// A Snapshot is the file as it is at one moment, for a copy of it. While it is
// open changes go on, and the file grows by what they replace.
type Snapshot struct{ bolt *bbolt.Tx }

// Snapshot takes one of all changes that Update has returned for. It has to be
// closed. After an ErrUncertain there is none: nobody knows what is in the file.
func (s *Store) Snapshot() (*Snapshot, error) {
	s.updating.Lock() // not between a commit and its publication
	defer s.updating.Unlock()
	if s.ruined != nil {
		return nil, s.ruined
	}
	bolt, err := s.db.Begin(false)
	if err != nil {
		return nil, fmt.Errorf("beginning a copy of the database: %w", err)
	}
	return &Snapshot{bolt}, nil
}

// Size is the number of bytes that WriteTo writes.
func (s *Snapshot) Size() int64 { return s.bolt.Size() }

// WriteTo writes a file that Open opens.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) { return s.bolt.WriteTo(w) }

// Close ends it; it may be called again.
func (s *Snapshot) Close() error {
	if s.bolt == nil {
		return nil
	}
	err := s.bolt.Rollback()
	s.bolt = nil
	return err
}
