package store

import "errors"

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
