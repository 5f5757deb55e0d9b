package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bberrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/internal/durable"
	"github.com/kmsgate/kmsgate/store/bboltcheck"
)

// A boltEngine keeps the values in one bbolt file.
type boltEngine struct {
	path       string
	db         *bbolt.DB             // replaced by rewrite
	commitBolt func(*bbolt.Tx) error // (*bbolt.Tx).Commit, except in tests
	print      filePrint             // of the file after the last commit
	seen       filePrint             // of the file when altered looked at it
	background sync.WaitGroup        // the closing of files that rewrite has replaced
}

// openBolt opens the file at path and creates it with mode 0600 if it does not exist.
func openBolt(path string) (*boltEngine, error) {
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		path = resolved // rewrite replaces the file itself
	}
	err := bboltcheck.Check(path)
	switch {
	case errors.Is(err, durable.ErrLocked):
		return nil, ErrLocked
	case errors.Is(err, ErrDamaged):
		return nil, fmt.Errorf("%w %s", err, restoreAdvice)
	case err != nil:
		return nil, err
	}
	db, err := bbolt.Open(path, 0o600, options())
	if errors.Is(err, bberrors.ErrTimeout) {
		return nil, ErrLocked
	}
	if err != nil {
		return nil, err
	}
	if err := os.Remove(rebuiltName(path)); err != nil && !errors.Is(err, fs.ErrNotExist) { // a kill leaves it
		return nil, errors.Join(err, db.Close())
	}
	db.AllocSize = allocation
	e := &boltEngine{path: path, db: db, commitBolt: (*bbolt.Tx).Commit}
	if err := e.opened(); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return e, nil
}

const (
	initialMapping = 1 << 30 // bytes: some 500,000 keys
	allocation     = 1 << 20 // bytes by which the file grows
)

func options() *bbolt.Options {
	// Writing the list of free pages at every commit would cost more as the records grow in number.
	// bbolt computes it at opening instead.
	// A file that outgrows its mapping cannot be written while a Snapshot is open. Address space is free.
	return &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType, NoFreelistSync: true,
		InitialMmapSize: initialMapping}
}

func (e *boltEngine) view(f func(tx transaction) error) error {
	return e.db.View(func(tx *bbolt.Tx) error { return f(boltTx{tx, e}) })
}

func (e *boltEngine) begin() (transaction, error) {
	tx, err := e.db.Begin(true)
	if err != nil {
		return nil, err
	}
	return boltTx{tx, e}, nil
}

func (e *boltEngine) close() error {
	err := e.db.Close()
	e.background.Wait()
	return err
}

// rebuiltName returns the name of the file that rewrite writes.
func rebuiltName(path string) string { return path + ".rebuilt" }

// rewrite replaces the file by a new one. Its content is not trusted after a failed commit: perhaps the
// pages were written and only the flush failed, and after a failed flush the kernel may have dropped the
// pages and marked them clean. If rewrite fails, the old file is still open, and it is uncertain which of
// them is at the path.
func (e *boltEngine) rewrite(fill func(tx transaction) error) error {
	name := rebuiltName(e.path)
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := e.writeNew(name, fill)
	if err != nil {
		return errors.Join(err, os.Remove(name))
	}
	if err := errors.Join(os.Rename(name, e.path), durable.SyncDir(filepath.Dir(e.path))); err != nil {
		return errors.Join(err, db.Close())
	}
	old := e.db
	e.db = db
	_ = e.opened()                              // if it fails, the next change finds out
	e.background.Go(func() { _ = old.Close() }) // waits for snapshots; its content does not matter any more
	return nil
}

// writeNew fills a new file, flushes it and leaves it open.
func (e *boltEngine) writeNew(name string, fill func(tx transaction) error) (*bbolt.DB, error) {
	o := options()
	o.NoSync, o.NoGrowSync = true, true
	db, err := bbolt.Open(name, 0o600, o)
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bbolt.Tx) error { return fill(boltTx{tx, e}) })
	if err == nil {
		err = db.Sync()
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	db.NoSync, db.NoGrowSync, db.AllocSize = false, false, allocation
	return db, nil
}

// A filePrint changes whenever the file at a path is written or replaced.
type filePrint struct {
	device, inode uint64
	size          int64
	changed       unix.Timespec // ctime, which no program can set
}

func (p filePrint) isFile(other filePrint) bool {
	return p.device == other.device && p.inode == other.inode
}

// printOf returns the print of the file at a path, or errMoved if there is none.
func printOf(path string) (filePrint, error) {
	var s unix.Stat_t
	err := ignoringEINTR(func() error { return unix.Stat(path, &s) })
	if errors.Is(err, fs.ErrNotExist) {
		return filePrint{}, errMoved
	}
	if err != nil {
		return filePrint{}, fmt.Errorf("looking at the file %q: %w", path, err)
	}
	return filePrint{uint64(s.Dev), s.Ino, s.Size, s.Ctim}, nil
}

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (e *boltEngine) altered() (bool, error) {
	now, err := printOf(e.path)
	if err != nil {
		return true, err
	}
	if !now.isFile(e.print) {
		return true, errMoved
	}
	e.seen = now
	return now != e.print, nil
}

func (e *boltEngine) unaltered() { e.print = e.seen }

// opened notes the print of a file that was opened or written again.
func (e *boltEngine) opened() error {
	now, err := printOf(e.path)
	e.print = now
	return err
}

// committed notes the print of the file after a commit. If it fails, or another file is there, the next
// change finds out.
func (e *boltEngine) committed() {
	if now, err := printOf(e.path); err == nil && now.isFile(e.print) {
		e.print = now
	}
}

// A boltTx is a transaction of a boltEngine.
type boltTx struct {
	bolt   *bbolt.Tx
	engine *boltEngine
}

func (t boltTx) get(bucket, id string) []byte {
	b := t.bolt.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	return b.Get([]byte(id))
}

func (t boltTx) put(bucket, id string, value []byte) error {
	b, err := t.bolt.CreateBucketIfNotExists([]byte(bucket))
	if err == nil {
		err = b.Put([]byte(id), value)
	}
	if err != nil {
		return fmt.Errorf("writing record %q to bucket %q: %w", id, bucket, err)
	}
	return nil
}

func (t boltTx) delete(bucket, id string) error {
	b := t.bolt.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	if err := b.Delete([]byte(id)); err != nil {
		return fmt.Errorf("deleting record %q from bucket %q: %w", id, bucket, err)
	}
	return nil
}

func (t boltTx) all(f func(bucket, id string, value []byte) error) error {
	return t.bolt.ForEach(func(bucket []byte, b *bbolt.Bucket) error {
		return b.ForEach(func(id, value []byte) error { return f(string(bucket), string(id), value) })
	})
}

// commit turns bbolt's panics into errors: bbolt panics where it finds the file damaged.
func (t boltTx) commit() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in the commit: %v", p)
		}
	}()
	if err := t.engine.commitBolt(t.bolt); err != nil {
		return err
	}
	t.engine.committed()
	return nil
}

func (t boltTx) rollback() { _ = t.bolt.Rollback() }
