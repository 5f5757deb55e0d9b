package store

import "time"

// A Rollback records that the operator accepted an older database. The gateway removes it once it has
// cancelled the deletions that were due.
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

// CountedAt returns when the gateway last began to write a change number to the token, or the zero Time.
func CountedAt(r *Records) time.Time { return r.counted }

// SetCountedAt records when the gateway begins to write a change number to the token.
func SetCountedAt(tx *Tx, t time.Time) error {
	if err := tx.write(bucketMeta, keyCounted, t); err != nil {
		return err
	}
	tx.counted = t
	return nil
}

// Skip makes the number of the change greater than n. The change must write a record.
func Skip(tx *Tx, n uint64) { tx.number = max(tx.number, n+1) }
