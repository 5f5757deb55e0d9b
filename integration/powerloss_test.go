package integration

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/integration/syscalls"
)

// TestPowerLoss cuts the power of gateways that sign and change: of their files, only what they have
// flushed is left. The next gateway must have every acknowledged change. As a control, the last
// gateway's flushes do nothing, so that changes must be lost.
func TestPowerLoss(t *testing.T) {
	needsRoot(t)
	t.Parallel()
	random := newRandom(t)
	g, l := newInstance(t, binary), newLedger(random)
	for done := soaked(2); !done(); {
		losePower(t, g, l, random, false)
	}
	g.start(t)
	l.prove(t, g)
	losePower(t, g, l, random, true)
	g.start(t)
	if len(l.violations(t, g.env)) == 0 {
		t.Error("control: no change is lost although no flush did anything, so this test cannot fail")
	}
	g.stop(t)
}

// losePower starts a gateway and cuts its power under load.
func losePower(t *testing.T, g *instance, l *ledger, random *rand.Rand, dropFlushes bool) {
	t.Helper()
	disk := newDisk(t, g)
	disk.DropFlushes = dropFlushes
	g.startOn(t, disk)
	l.changeUntil(t, g, random, g.kill)
	g.moveTo(t, disk)
}

// TestPowerLossAfterError makes a flush of the database fail while a gateway signs and changes, and makes
// the kernel drop what was not flushed. The gateway then writes the file again. The power fails as soon as
// the new file is in its place, or a moment later. The next gateway must have every acknowledged change.
func TestPowerLossAfterError(t *testing.T) {
	needsRoot(t)
	t.Parallel()
	random := newRandom(t)
	g, l := newInstance(t, binary), newLedger(random)
	for n, done := 0, soaked(4); !done(); n++ {
		atOnce := n%2 == 0
		inDatabase, dir := g.match(database), g.dir
		var armed, failed, replaced atomic.Bool
		disk := newDisk(t, g)
		left := random.IntN(2) // bbolt flushes twice in a commit, at first the pages and then the root
		disk.FailFlush = func(c syscalls.Call) bool {
			if !armed.Load() || failed.Load() || !inDatabase(c) {
				return false
			}
			left--
			failed.Store(left < 0)
			return left < 0
		}
		watch := g.startOn(t, disk)
		watch.Intercept(func(c syscalls.Call) syscalls.Action {
			if !failed.Load() || c.Name != "fsync" || !slices.Contains(c.Paths(), dir) {
				return syscalls.Action{}
			}
			replaced.Store(true)
			if atOnce {
				return syscalls.Action{Until: make(chan struct{})} // it does nothing more
			}
			return syscalls.Action{}
		})
		l.changeUntil(t, g, random, func() {
			armed.Store(true)
			waitLong(t, "a new file after a flush that failed", replaced.Load)
			if !atOnce {
				<-time.After(time.Duration(random.Int64N(int64(30 * time.Millisecond)))) // the end hits any moment
			}
			g.kill()
		})
		g.moveTo(t, disk)
	}
	g.start(t)
	l.prove(t, g)
}

func newDisk(t *testing.T, g *instance) *syscalls.Disk {
	t.Helper()
	disk, err := syscalls.NewDisk(g.dir)
	if err != nil {
		t.Fatal(err)
	}
	return disk
}

// startOn starts the gateway on a disk.
func (g *instance) startOn(t *testing.T, disk *syscalls.Disk) *syscalls.Watch {
	t.Helper()
	watch := new(syscalls.Watch)
	watch.Intercept(disk.Intercept)
	g.watch = watch
	g.start(t)
	g.watch = nil
	return watch
}

// moveTo moves the gateway, which was killed, to a directory with what a power failure would have left on
// the disk.
func (g *instance) moveTo(t *testing.T, disk *syscalls.Disk) {
	t.Helper()
	left, err := os.MkdirTemp("", "instance")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(left) })
	if err := disk.WriteTo(left); err != nil {
		t.Fatal(err)
	}
	g.move(left)
}

// changeUntil lets callers sign and change, and calls end after a random number of changes and a
// random delay.
func (l *ledger) changeUntil(t *testing.T, g *instance, random *rand.Rand, end func()) {
	t.Helper()
	signers, changers := callerCounts()
	want := l.count(changing, answered) + 10 + random.IntN(50)
	l.start(t, g.env, signers, changers)
	waitLong(t, "changes", func() bool { return l.count(changing, answered) >= want })
	<-time.After(time.Duration(random.Int64N(int64(50 * time.Millisecond)))) // so that the end hits any moment
	end()
	l.stop()
}

// TestPowerLossOnDevice does the same with ext4 on a loop device, whose power fails: the kernel
// drops everything that it has not written to the device. It runs with -soak only, because not every
// machine on which tests run has loop devices.
func TestPowerLossOnDevice(t *testing.T) {
	if *soak == 0 {
		return
	}
	needsRoot(t)
	random := newRandom(t)
	d := newDevice(t)
	d.mount(t, 5)
	dir := filepath.Join(d.dir, "i")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	g, l := newInstanceIn(t, dir, binary), newLedger(random)
	intervals := []int{1, 5, 30, 1000} // of ext4's commits, in seconds
	for n, done := 0, soaked(0); !done(); n++ {
		d.unmount(t)
		d.mount(t, intervals[n%len(intervals)])
		g.start(t)
		l.changeUntil(t, g, random, func() {
			d.failPower(t)
			g.kill()
		})
	}
	d.unmount(t)
	d.mount(t, 5)
	g.start(t)
	l.prove(t, g)

	d.unmount(t)
	d.mount(t, 1000)
	g.watch = new(syscalls.Watch)
	g.watch.Intercept(func(c syscalls.Call) syscalls.Action {
		return syscalls.Action{Skip: c.Name == "fsync" || c.Name == "fdatasync" || c.Name == "syncfs"}
	})
	g.start(t)
	g.watch = nil
	l.changeUntil(t, g, random, func() {
		d.failPower(t)
		g.kill()
	})
	d.unmount(t)
	d.mount(t, 5)
	g.start(t)
	if len(l.violations(t, g.env)) == 0 {
		t.Error("control: no change is lost although no flush did anything, so this test cannot fail")
	}
	g.stop(t)
}

// A device is a loop device with an ext4 file system.
type device struct {
	path    string
	dir     string // where it is mounted
	mounted bool
}

func newDevice(t *testing.T) *device {
	t.Helper()
	parent, err := os.MkdirTemp("", "device")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(parent) })
	image, dir := filepath.Join(parent, "image"), filepath.Join(parent, "fs")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 4<<30), os.Mkdir(dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	d := &device{path: strings.TrimSpace(execute(t, "losetup", "--find", "--show", image)), dir: dir}
	t.Cleanup(func() { execute(t, "losetup", "--detach", d.path) })
	execute(t, "mkfs.ext4", "-q", d.path)
	t.Cleanup(func() { d.unmount(t) })
	return d
}

// execute runs a program and returns its output.
func execute(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// mount mounts the file system, which replays its journal. It commits at an interval in seconds.
func (d *device) mount(t *testing.T, interval int) {
	t.Helper()
	if err := unix.Mount(d.path, d.dir, "ext4", 0, fmt.Sprintf("commit=%d", interval)); err != nil {
		t.Fatalf("mounting %s: %v", d.path, err)
	}
	d.mounted = true
}

func (d *device) unmount(t *testing.T) {
	t.Helper()
	if !d.mounted {
		return
	}
	waitLong(t, "the file system to be unused", func() bool {
		err := unix.Unmount(d.dir, 0)
		if err != nil && !errors.Is(err, unix.EBUSY) {
			t.Fatalf("unmounting %s: %v", d.path, err)
		}
		return err == nil
	})
	d.mounted = false
}

// failPower makes the file system drop everything that has not reached the device, and all that is
// written from now on.
func (d *device) failPower(t *testing.T) {
	t.Helper()
	const (
		shutdown = 0x8004587d // EXT4_IOC_SHUTDOWN
		atOnce   = 2          // EXT4_GOING_FLAGS_NOLOGFLUSH: not even the journal is written
	)
	dir, err := os.Open(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := unix.IoctlSetPointerInt(int(dir.Fd()), shutdown, atOnce); err != nil {
		t.Fatalf("shutting %s down: %v", d.path, err)
	}
}
