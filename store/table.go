package store

import (
	"encoding/json"
	"fmt"
	"iter"

	"github.com/tidwall/btree"
	"go.etcd.io/bbolt"
)

// A Table is the records of one kind at one moment, ordered by their ids.
type Table[R any] struct {
	rows   *rows[R]
	bucket string
}

// Get returns a record, or ErrNotFound.
func (t Table[R]) Get(id string) (R, error) {
	r, ok := t.rows.Get(id)
	if !ok {
		return r, fmt.Errorf("%w: %q in %s", ErrNotFound, id, t.bucket)
	}
	return r, nil
}

// Has reports whether there is a record.
func (t Table[R]) Has(id string) bool {
	_, ok := t.rows.Get(id)
	return ok
}

// Len returns the number of records.
func (t Table[R]) Len() int { return t.rows.Len() }

// All ranges over all records.
func (t Table[R]) All() iter.Seq[R] {
	return func(yield func(R) bool) {
		t.rows.Scan(func(_ string, r R) bool { return yield(r) })
	}
}

// Page returns up to n records from the skip'th on.
func (t Table[R]) Page(skip, n int) []R {
	var page []R
	for i := skip; i < min(skip+n, t.rows.Len()); i++ {
		_, r, _ := t.rows.GetAt(i)
		page = append(page, r)
	}
	return page
}

// A Writable is a Table in a transaction.
type Writable[R any] struct {
	Table[R]
	kind kind[R]
	tx   *Tx
}

// Put writes a record, new or changed.
func (w Writable[R]) Put(r R) error {
	id := w.kind.id(r)
	if err := w.tx.write(w.bucket, id, r); err != nil {
		return err
	}
	w.kind.reindex(w.tx.Records, id, &r)
	w.rows.Set(id, r)
	return nil
}

// Create writes a new record, or returns ErrExists.
func (w Writable[R]) Create(r R) error {
	if id := w.kind.id(r); w.Has(id) {
		return fmt.Errorf("%w: %q in %s", ErrExists, id, w.bucket)
	}
	return w.Put(r)
}

// Delete deletes a record and what belongs to it: a user's access keys, an access
// point's client keys, a key's aliases and its versions, whose key pairs become
// orphans. It succeeds if there is no such record.
func (w Writable[R]) Delete(id string) error {
	r, ok := w.rows.Get(id)
	if !ok {
		return nil
	}
	if w.kind.cascade != nil {
		if err := w.kind.cascade(w.tx, r); err != nil {
			return err
		}
	}
	if err := w.tx.erase(w.bucket, id); err != nil {
		return err
	}
	w.kind.reindex(w.tx.Records, id, nil)
	w.rows.Delete(id)
	return nil
}

// rows are the records of one kind, by their ids.
type rows[R any] = btree.Map[string, R]

// A kind is a kind of record: one bucket of the file, mirrored in memory.
type kind[R any] struct {
	bucket  string
	id      func(R) string
	in      func(*Records) **rows[R]
	index   func(in *Records, before, after *R) // keeps what is in memory only; nil: there is nothing
	cascade func(tx *Tx, deleted R) error       // deletes what belongs to a record; nil: nothing does
}

func (k kind[R]) table(r *Records) Table[R] { return Table[R]{*k.in(r), k.bucket} }

func (k kind[R]) writable(tx *Tx) Writable[R] { return Writable[R]{k.table(tx.Records), k, tx} }

func (k kind[R]) reindex(r *Records, id string, after *R) {
	if k.index == nil {
		return
	}
	if before, ok := (*k.in(r)).Get(id); ok {
		k.index(r, &before, after)
		return
	}
	k.index(r, nil, after)
}

func (k kind[R]) fork(from, to *Records) { *k.in(to) = (*k.in(from)).Copy() }

// open reads all of the bucket. It makes one only in a file of an earlier version,
// or a new one.
func (k kind[R]) open(tx *bbolt.Tx, before int, into *Records) error {
	if before >= completeSince && tx.Bucket([]byte(k.bucket)) == nil {
		return fmt.Errorf("%w: %s are missing: %s", ErrDamaged, k.bucket, restoreAdvice)
	}
	b, err := tx.CreateBucketIfNotExists([]byte(k.bucket))
	if err != nil {
		return err
	}
	all := new(rows[R])
	*k.in(into) = all
	return b.ForEach(func(id, value []byte) error {
		var r R
		if err := json.Unmarshal(value, &r); err != nil {
			return unreadable(fmt.Sprintf("record %q in %s", id, k.bucket), err)
		}
		k.reindex(into, string(id), &r)
		all.Set(string(id), r)
		return nil
	})
}
