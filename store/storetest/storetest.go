// Package storetest opens databases of tests.
package storetest

import (
	"cmp"
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/store"
)

// Open opens the database at path, whose data key the hsmtest package's fake token seals. Every change is
// made twice, the first time in vain.
func Open(path string) (*store.Store, error) { return new(Disk).Open(path) }

// A Disk holds databases whose commits can fail or hang. The zero value is a disk without faults.
type Disk struct {
	// Timeout is that of [store.Options]. Zero means a minute, since the test's machine can be busy.
	Timeout time.Duration

	fault atomic.Pointer[func(commit func() error) error] // makes the next commit; nil if it has no fault
}

// Open is like the function Open, for a database on this disk.
func (d *Disk) Open(path string) (*store.Store, error) {
	return store.Open(context.Background(), path, new(hsmtest.Fake),
		store.Options{Timeout: cmp.Or(d.Timeout, time.Minute), Rerun: true, Commit: d.commit})
}

func (d *Disk) commit(commit func() error) error {
	if fault := d.fault.Swap(nil); fault != nil {
		return (*fault)(commit)
	}
	return commit()
}

// FailCommit makes the next commit fail with err after it has written the file, as when its flush fails.
func (d *Disk) FailCommit(err error) {
	fault := func(commit func() error) error { return errors.Join(commit(), err) }
	d.fault.Store(&fault)
}

// HangCommit makes the next commit hang until release is called.
func (d *Disk) HangCommit() (release func()) {
	released := make(chan struct{})
	fault := func(commit func() error) error {
		<-released
		return commit()
	}
	d.fault.Store(&fault)
	return func() { close(released) }
}
