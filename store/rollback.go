package store

import "time"

// A Rollback is an older database that the operator has accepted, until the gateway has kept the keys whose
// deletion was due in it.
type Rollback struct {
	Found uint64 // the number of the database's last change
	Seen  uint64 // the greatest number of a change in the log or in the token
}

// RollbackOf returns the rollback that is not dealt with yet, or the zero Rollback.
func RollbackOf(r *Records) Rollback { return r.rollback }

// SetRollback records a rollback that is not dealt with yet. The zero Rollback means none.
func SetRollback(tx *Tx, r Rollback) (err error) {
	if r == (Rollback{}) {
		err = tx.erase(bucketMeta, keyRollback)
	} else {
		err = tx.write(bucketMeta, keyRollback, r)
	}
	if err == nil {
		tx.rollback = r
	}
	return err
}

// CountedAt returns when the number of a change was last written to the token, or the zero Time.
func CountedAt(r *Records) time.Time { return r.counted }

// SetCountedAt records when the number of a change was written to the token.
func SetCountedAt(tx *Tx, t time.Time) error {
	if err := tx.write(bucketMeta, keyCounted, t); err != nil {
		return err
	}
	tx.counted = t
	return nil
}

// Skip makes the number of the change greater than n. The change must write a record.
func Skip(tx *Tx, n uint64) { tx.number = max(tx.number, n+1) }
