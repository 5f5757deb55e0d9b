package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
)

// A head covers all values. A value that is changed without the head is found out, and only the owner of the
// data key can change the head.
type head struct {
	N      uint64 // of the last change; numbers increase, with gaps
	TxId   string // of the last change: a RequestId, or empty for a change that no request made
	Schema int
	D      digest // of all values but the head
}

// tampered returns ErrTampered with a reason.
func tampered(format string, args ...any) error {
	return fmt.Errorf("%w: "+format+" %s", append(append([]any{ErrTampered}, args...), restoreAdvice)...)
}

// putHead seals a head and writes it.
func (s sealer) putHead(tx transaction, h head) (sealed []byte, err error) {
	text, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encoding the database's head: %w", err)
	}
	sealed = s.seal(bucketMeta, keyHead, text)
	return sealed, tx.put(bucketMeta, keyHead, sealed)
}

// readHead reads the head and checks that it covers all values.
func (s sealer) readHead(tx transaction) (h head, sealed []byte, err error) {
	sealed = bytes.Clone(tx.get(bucketMeta, keyHead))
	if sealed == nil {
		return h, nil, tampered("its head is missing")
	}
	text, err := s.open(bucketMeta, keyHead, sealed)
	if err == nil {
		err = json.Unmarshal(text, &h)
	}
	if err != nil {
		return h, nil, tampered("its head cannot be read (%w)", err)
	}
	d, err := s.digestOf(tx)
	if err == nil && d != h.D {
		err = tampered("its records are not those of its last change, number %d", h.N)
	}
	return h, sealed, err
}

// digestOf computes the digest of all values but the head.
func (s sealer) digestOf(tx transaction) (d digest, err error) {
	err = tx.all(func(bucket, id string, value []byte) error {
		if bucket != bucketMeta || id != keyHead {
			d = s.replace(d, bucket, id, nil, value)
		}
		return nil
	})
	return d, err
}

// verify checks that the engine holds what the Store wrote last. The caller has the lock.
func (s *Store) verify() error {
	return s.engine.view(func(tx transaction) error {
		_, sealed, err := s.sealer.readHead(tx)
		if err == nil && !bytes.Equal(sealed, s.sealedHead) {
			err = tampered("an older state was put in its place")
		}
		return err
	})
}

// checkUnaltered verifies the values if somebody else may have changed them since the last change. If
// they were changed, it makes every later change fail. The caller has the lock.
func (s *Store) checkUnaltered() (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer s.catchDamage(&err)
	altered, err := s.engine.altered()
	switch {
	case errors.Is(err, errMoved):
		return s.setTampered(tampered("it was changed while it was open (%w)", err))
	case err != nil || !altered:
		return err
	}
	if err := s.verify(); err != nil {
		if !errors.Is(err, ErrTampered) {
			err = tampered("it was changed while it was open (%w)", err)
		}
		return s.setTampered(err)
	}
	s.engine.unaltered()
	return nil
}

// setTampered makes every later change fail, and returns the reason.
func (s *Store) setTampered(err error) error {
	err = fmt.Errorf("the database %q: %w", s.path, err)
	s.faults.tampered.Store(&err)
	return err
}

// catchDamage turns a panic into an error: bbolt panics where it finds the file damaged, and so does an access
// to the mapping of a file that was cut off. It must be deferred.
func (s *Store) catchDamage(err *error) {
	if p := recover(); p != nil {
		*err = s.setTampered(tampered("it was damaged while it was open (%v)", p))
	}
}
