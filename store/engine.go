package store

import "errors"

// An engine keeps values in buckets, by id. The Store makes one change at a time, and never changes an
// engine that is being rewritten. TestEngines checks this contract for every engine.
type engine interface {
	// view calls f with a transaction that only reads.
	view(f func(tx transaction) error) error
	// begin begins a transaction that can write. It must be ended.
	begin() (transaction, error)
	// rewrite ends the uncertainty that a failed commit leaves: afterwards, the engine holds what fill
	// writes to an empty transaction, on stable storage. If rewrite fails, it can be called again.
	rewrite(fill func(tx transaction) error) error
	// altered reports whether somebody else may have changed the values since the last commit. If they are
	// no longer where they were, it returns errMoved. Other errors say that it is not known.
	altered() (bool, error)
	// unaltered says that the values are as the last commit left them, although altered reported a change
	// a moment ago.
	unaltered()
	// snapshot returns the values at this moment.
	snapshot() (*Snapshot, error)
	// close closes the engine.
	close() error
}

var errMoved = errors.New("the file was removed, or another was put in its place")

// A transaction reads and writes the values of an engine.
type transaction interface {
	// get returns a value, or nil if there is none. It is valid until the transaction ends.
	get(bucket, id string) []byte
	put(bucket, id string, value []byte) error
	delete(bucket, id string) error
	// all calls f for all values. They are valid until the transaction ends.
	all(f func(bucket, id string, value []byte) error) error
	// commit ends the transaction. If it returns nil, the writes are on stable storage. If it returns an
	// error, it is unknown whether the writes were made.
	commit() error
	// rollback ends the transaction without its writes. After commit, it does nothing.
	rollback()
}
