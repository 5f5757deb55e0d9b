package store

import (
	"errors"

	"go.etcd.io/bbolt"
)

// FailCommit makes the next commit fail with err after it has written the file, as when its flush fails.
func FailCommit(s *Store, err error) { failCommit(s.engine.(*boltEngine), err) }

func failCommit(e *boltEngine, err error) {
	e.commitBolt = func(tx *bbolt.Tx) error {
		e.commitBolt = (*bbolt.Tx).Commit
		return errors.Join(tx.Commit(), err)
	}
}

// HangCommit makes the next commit hang until release is called.
func HangCommit(s *Store) (release func()) {
	released := make(chan struct{})
	e := s.engine.(*boltEngine)
	e.commitBolt = func(tx *bbolt.Tx) error {
		e.commitBolt = (*bbolt.Tx).Commit
		<-released
		return tx.Commit()
	}
	return func() { close(released) }
}

// Replace replaces or, if value is nil, removes a value in the engine, and makes the engine believe that the
// Store did it.
func Replace(s *Store, bucket, id string, value []byte) {
	tx, err := s.engine.begin()
	if err == nil && value == nil {
		err = errors.Join(tx.delete(bucket, id), tx.commit())
	} else if err == nil {
		err = errors.Join(tx.put(bucket, id, value), tx.commit())
	}
	if err != nil {
		panic(err)
	}
}
