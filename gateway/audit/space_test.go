package audit_test

import (
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

// A fakeDisk is a file system whose free space a test sets, and which can hang.
type fakeDisk struct {
	space audit.Space
	err   error
	hang  chan struct{} // has room for one; a measurement puts something in and takes it out
}

func newFakeDisk(free, size uint64) *fakeDisk {
	return &fakeDisk{space: audit.Space{Free: free, Size: size}, hang: make(chan struct{}, 1)}
}

func (d *fakeDisk) measure() (audit.Space, error) {
	d.hang <- struct{}{}
	defer func() { <-d.hang }()
	return d.space, d.err
}

// set changes the disk while no measurement is under way.
func (d *fakeDisk) set(free uint64, err error) {
	d.hang <- struct{}{}
	d.space.Free, d.err = free, err
	<-d.hang
}

// TestScarce checks when the log says that the space is scarce: while less is free than the
// reserve, also because of what the log has just written, and whatever a hanging file system says.
func TestScarce(t *testing.T) { synctest.Test(t, testScarce) }

func testScarce(t *testing.T) {
	var logged buffer
	d := newFakeDisk(1000, 1<<30)
	cfg := config(filepath.Join(t.TempDir(), "audit.log"))
	cfg.Reserve, cfg.Space = 1000, d.measure
	cfg.Logger = slog.New(slog.NewTextHandler(&logged, nil))
	l := openConfig(t, cfg)
	check := func(event string, scarce bool, wantFree uint64) {
		t.Helper()
		free, err := l.Free()
		if (l.Scarce() != nil) != scarce || err != nil || free != wantFree {
			t.Errorf("%s: got %v, %d free, %v, want scarce %v and %d free", event, l.Scarce(), free, err, scarce, wantFree)
		}
	}
	next := func() { // the next measurement
		time.Sleep(time.Second)
		synctest.Wait()
	}
	check("at first", false, 1000)
	appendLines(t, l, 1)
	check("after a line", true, 1000-uint64(len(read(t, cfg.Path))))
	time.Sleep(3 * time.Second) // in between, the first checkpoint is written
	synctest.Wait()
	check("measured again", false, 1000)
	d.set(999, nil)
	next()
	check("a byte too few", true, 999)
	d.set(5000, errors.New("broken"))
	next()
	if _, err := l.Free(); err == nil || l.Scarce() == nil {
		t.Errorf("the measurement fails: got %v from Free and %v from Scarce, want two errors", err, l.Scarce())
	}
	d.set(5000, nil)
	next()
	check("more is free", false, 5000)
	d.hang <- struct{}{} // the disk hangs
	time.Sleep(20 * time.Second)
	if _, err := l.Free(); err == nil || !strings.Contains(err.Error(), "has not answered") {
		t.Errorf("the disk hangs: got %v from Free, want an error", err)
	}
	if err := l.Scarce(); err != nil {
		t.Errorf("the disk hangs: got %v from Scarce, want what was last known", err)
	}
	appendLines(t, l, 40) // more than 5000 bytes
	if l.Scarce() == nil {
		t.Error("the disk hangs while the log writes: got nil from Scarce, want an error")
	}
	<-d.hang
	next()
	check("the disk answers again", false, 5000)
	closeLog(t, l)
	if lost, back := strings.Count(logged.String(), "level=ERROR"), strings.Count(logged.String(), "serves everybody"); lost == 0 || lost != back {
		t.Errorf("the operator's log has %d errors and %d lines about recovery, want some, and as many of both:\n%s", lost, back, logged.String())
	}
}

// TestReserveShare checks that the reserve is at most 5 % of the file system, so that a small one
// can be used, and that there is none without a configured one.
func TestReserveShare(t *testing.T) {
	for name, tc := range map[string]struct {
		free, size, reserve uint64
		scarce              bool
	}{
		"at 5 % of a small disk":       {500, 10_000, 1 << 30, false},
		"below 5 % of a small disk":    {499, 10_000, 1 << 30, true},
		"at the reserve of a large":    {64, 1 << 30, 64, false},
		"below the reserve of a large": {63, 1 << 30, 64, true},
		"no reserve":                   {0, 1 << 30, 0, false},
	} {
		cfg := config(filepath.Join(t.TempDir(), "audit.log"))
		cfg.Reserve, cfg.Space = tc.reserve, newFakeDisk(tc.free, tc.size).measure
		l := openConfig(t, cfg)
		if err := l.Scarce(); (err != nil) != tc.scarce {
			t.Errorf("%s: got %v, want scarce %v", name, err, tc.scarce)
		}
		closeLog(t, l)
	}
}

// TestFree checks that the log asks the system about its own file system.
func TestFree(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "audit.log"))
	if free, err := l.Free(); err != nil || free == 0 {
		t.Errorf("Free: got %d, %v, want some bytes", free, err)
	}
	closeLog(t, l)
}
