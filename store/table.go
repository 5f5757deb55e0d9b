package store

import (
	"encoding/json"
	"fmt"
	"iter"

	"github.com/tidwall/btree"
)

// A Table holds the records of one kind at one moment, ordered by id.
type Table[R any] struct {
	rows   *rows[R]
	bucket string
}

// Get returns a record, or ErrNotFound.
func (t Table[R]) Get(id string) (R, error) {
	r, ok := t.rows.Get(id)
	if !ok {
		return r, fmt.Errorf("%w: %q in bucket %q", ErrNotFound, id, t.bucket)
	}
	return r, nil
}

// Has reports whether a record exists.
func (t Table[R]) Has(id string) bool {
	_, ok := t.rows.Get(id)
	return ok
}

// Len returns the number of records.
func (t Table[R]) Len() int { return t.rows.Len() }

// All returns an iterator over all records, ordered by id.
func (t Table[R]) All() iter.Seq[R] {
	return func(yield func(R) bool) {
		t.rows.Scan(func(_ string, r R) bool { return yield(r) })
	}
}

// Page returns up to n records after the first skip.
func (t Table[R]) Page(skip, n int) []R {
	var page []R
	for i := skip; i < min(skip+n, t.rows.Len()); i++ {
		_, r, _ := t.rows.GetAt(i)
		page = append(page, r)
	}
	return page
}

// A Writable is a Table that a transaction can change.
type Writable[R any] struct {
	Table[R]
	kind kind[R]
	tx   *Tx
}

// Put writes a record, and replaces the one with the same id.
func (w Writable[R]) Put(r R) error {
	id := w.kind.id(r)
	if err := w.tx.write(w.bucket, id, r); err != nil {
		return err
	}
	w.kind.reindex(w.tx.Records, id, &r)
	w.rows.Set(id, r)
	return nil
}

// Create writes a new record, or returns ErrExists if the id is taken.
func (w Writable[R]) Create(r R) error {
	if id := w.kind.id(r); w.Has(id) {
		return fmt.Errorf("%w: %q in bucket %q", ErrExists, id, w.bucket)
	}
	return w.Put(r)
}

// Delete deletes a record and its dependents: a user's access keys, an access point's client keys,
// or a key's aliases and versions, whose key pairs become orphans. Deleting a record that does not
// exist succeeds.
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

// rows are the records of one kind, by id.
type rows[R any] = btree.Map[string, R]

// A kind describes one kind of record: a bucket of the file, mirrored in memory.
type kind[R any] struct {
	bucket  string
	id      func(R) string
	field   func(*Records) **rows[R]
	index   func(r *Records, before, after *R) // updates the index in memory; nil if the kind has none
	cascade func(tx *Tx, deleted R) error      // deletes the record's dependents; nil if the kind has none
}

func (k kind[R]) table(r *Records) Table[R] { return Table[R]{*k.field(r), k.bucket} }

func (k kind[R]) writable(tx *Tx) Writable[R] { return Writable[R]{k.table(tx.Records), k, tx} }

func (k kind[R]) reindex(r *Records, id string, after *R) {
	if k.index == nil {
		return
	}
	if before, ok := (*k.field(r)).Get(id); ok {
		k.index(r, &before, after)
		return
	}
	k.index(r, nil, after)
}

func (k kind[R]) fork(src, dst *Records) { *k.field(dst) = (*k.field(src)).Copy() }

func (k kind[R]) name() string { return k.bucket }

func (k kind[R]) has(r *Records, id string) bool { return k.table(r).Has(id) }

func (k kind[R]) clear(r *Records) { *k.field(r) = new(rows[R]) }

// load adds a record.
func (k kind[R]) load(r *Records, id string, value []byte) error {
	var record R
	if err := json.Unmarshal(value, &record); err != nil {
		return unreadable(fmt.Sprintf("record %q in bucket %q", id, k.bucket), err)
	}
	k.reindex(r, id, &record)
	(*k.field(r)).Set(id, record)
	return nil
}

// save calls put with each record.
func (k kind[R]) save(r *Records, put func(id string, record any) error) (err error) {
	(*k.field(r)).Scan(func(id string, record R) bool {
		err = put(id, record)
		return err == nil
	})
	return err
}
