package store_test

import (
	"bytes"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/store"
	"github.com/kmsgate/kmsgate/store/storetest"
)

// limitFiles makes writes beyond a size fail, as on a full disk, until the returned function is called.
// Files of all packages' tests are in other processes.
func limitFiles(t *testing.T, size uint64) (restore func()) {
	t.Helper()
	signal.Ignore(unix.SIGXFSZ)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	set := func(limit unix.Rlimit) {
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
			t.Fatal(err)
		}
	}
	set(unix.Rlimit{Cur: size, Max: old.Max})
	restore = func() { set(old) }
	t.Cleanup(restore)
	return restore
}

func putAlias(name string) func(tx *store.Tx) error {
	return func(tx *store.Tx) error {
		return tx.Aliases().Put(store.Alias{AliasName: name, KeyId: strings.Repeat("k", 100)})
	}
}

// waitFor waits until a condition holds.
func waitFor(t *testing.T, condition string, holds func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-deadline:
			t.Fatalf("waited a minute: %s", condition)
		case <-tick.C:
		}
	}
}

// TestDiskFull fills the disk. A change fails, records can still be read, and when there is room again
// changes succeed, without the one that failed.
func TestDiskFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path)
	if err := errors.Join(s.Update(putAlias("alias/before")), s.Update(func(tx *store.Tx) error {
		return tx.SetInstance(store.Instance{InstanceId: "kst-1"})
	})); err != nil {
		t.Fatal(err)
	}
	restore := limitFiles(t, 4096)
	err := s.Update(putAlias("alias/failed"))
	if !errors.Is(err, store.ErrUncertain) {
		t.Fatalf("on a full disk: got %v, want ErrUncertain", err)
	}
	if err := s.Update(putAlias("alias/refused")); !errors.Is(err, store.ErrUnwritable) {
		t.Errorf("the next change: got %v, want ErrUnwritable", err)
	}
	if _, err := s.Snapshot(); !errors.Is(err, store.ErrUnwritable) {
		t.Errorf("a snapshot: got %v, want ErrUnwritable", err)
	}
	if st := s.Status(); st.Failing == nil || st.Faults != 1 || !errors.Is(st.LastFault, unix.EFBIG) {
		t.Errorf("status: got %+v, want EFBIG", st)
	}
	if !s.Now().Aliases().Has("alias/before") {
		t.Error("the records cannot be read")
	}
	restore()
	waitFor(t, "changes succeed again", func() bool { return s.Update(putAlias("alias/after")) == nil })
	if st := s.Status(); st.Failing != nil || st.Waiting != 0 {
		t.Errorf("status: got %+v, want no failure", st)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	r := open(t, path).Now()
	for name, want := range map[string]bool{"before": true, "failed": false, "refused": false, "after": true} {
		if r.Aliases().Has("alias/"+name) != want {
			t.Errorf("alias/%s: got %v, want %v", name, !want, want)
		}
	}
	if r.Instance().InstanceId != "kst-1" {
		t.Errorf("instance: got %+v", r.Instance())
	}
}

// TestFullOnlyOnce checks that a failed commit does not take place if the file can be rewritten at once.
func TestFullOnlyOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	disk := new(storetest.Disk)
	s := openOn(t, disk, path)
	err := s.Update(putAlias("alias/before"))
	if err != nil {
		t.Fatal(err)
	}
	disk.FailCommit(unix.ENOSPC)
	if err := s.Update(putAlias("alias/failed")); !errors.Is(err, store.ErrUnwritable) || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v, want ErrUnwritable and ENOSPC", err)
	}
	if err := s.Update(putAlias("alias/after")); err != nil {
		t.Error(err)
	}
	check := func(r *store.Records) {
		t.Helper()
		if !r.Aliases().Has("alias/before") || r.Aliases().Has("alias/failed") || !r.Aliases().Has("alias/after") {
			t.Error("the aliases are not those of the changes that succeeded")
		}
	}
	check(s.Now())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	check(open(t, path).Now())
}

// TestSnapshotOutlivesRebuild takes a snapshot, makes a commit fail and reads the snapshot.
func TestSnapshotOutlivesRebuild(t *testing.T) {
	dir, disk := t.TempDir(), new(storetest.Disk)
	s := openOn(t, disk, filepath.Join(dir, "db"))
	if err := s.Update(putAlias("alias/before")); err != nil {
		t.Fatal(err)
	}
	snapshot, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	disk.FailCommit(unix.EIO)
	if err := s.Update(putAlias("alias/failed")); !errors.Is(err, store.ErrUnwritable) {
		t.Fatalf("got %v, want ErrUnwritable", err)
	}
	if err := s.Update(putAlias("alias/after")); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(dir, "copy")
	var content bytes.Buffer
	if _, err := snapshot.WriteTo(&content); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(copied, content.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(snapshot.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if r := open(t, copied).Now(); r.Aliases().Len() != 1 {
		t.Errorf("the snapshot has %d aliases, want 1", r.Aliases().Len())
	}
}

// TestHangingCommit checks that changes are answered while a commit hangs, and that its outcome is reported
// when it is known.
func TestHangingCommit(t *testing.T) { synctest.Test(t, testHangingCommit) }

func testHangingCommit(t *testing.T) {
	disk := new(storetest.Disk)
	s := openOn(t, disk, filepath.Join(t.TempDir(), "db"))
	release := disk.HangCommit()
	outcome := make(chan error, 1)
	err := s.UpdateLate(putAlias("alias/hanging"), func(err error) { outcome <- err })
	if !errors.Is(err, store.ErrUncertain) {
		t.Fatalf("got %v, want ErrUncertain", err)
	}
	if st := s.Status(); st.Failing == nil || st.Waiting == 0 {
		t.Errorf("status: got %+v, want a failure", st)
	}
	if err := s.Update(putAlias("alias/refused")); !errors.Is(err, store.ErrUnwritable) {
		t.Errorf("the next change: got %v, want ErrUnwritable", err)
	}
	release()
	if err := <-outcome; err != nil {
		t.Errorf("the hanging change: got %v, want nil", err)
	}
	synctest.Wait() // until the commit has released the lock
	if err := s.Update(putAlias("alias/after")); err != nil {
		t.Error(err)
	}
	r := s.Now()
	if !r.Aliases().Has("alias/hanging") || r.Aliases().Has("alias/refused") {
		t.Error("the aliases are not those of the changes that took place")
	}
}
