package syscalls_test

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/integration/syscalls"
)

// childVariable names the environment variable with the action of a child process, which runs it in
// the current directory instead of the tests.
const childVariable = "SYSCALLS_TEST_CHILD"

func TestMain(m *testing.M) {
	syscalls.Main()
	if action := os.Getenv(childVariable); action != "" {
		os.Exit(child(action))
	}
	os.Exit(m.Run())
}

// records is how many records a child writes.
const records = 5

func child(action string) int {
	var err error
	switch action {
	case "write":
		err = writeRecords()
	case "flush":
		err = flushSome()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// writeRecords writes and flushes records, and prints a line for each: "ok" or the error.
func writeRecords() error {
	f, err := os.Create("records")
	if err != nil {
		return err
	}
	other, err := os.Create("other")
	if err != nil {
		return err
	}
	for n := range records {
		if err := other.Sync(); err != nil {
			return err
		}
		_, err := f.WriteAt([]byte("x"), int64(n))
		if err == nil {
			err = f.Sync()
		}
		if err == nil {
			fmt.Println("ok")
			continue
		}
		fmt.Println(err)
	}
	return os.Rename("records", "renamed")
}

// flushSome makes changes, and flushes some of them.
func flushSome() error {
	for _, step := range []func() error{
		func() error { return write("flushed", "1", true) },
		func() error { return write("only its name", "1", false) },
		func() error { return write("changed", "new", false) },
		func() error { return os.Remove("removed") },
		func() error { return flush(".") },
		func() error { return write("only its content", "1", true) },
		func() error { return os.Rename("renamed", "new name") },
		func() error { return os.Remove("removed later") },
		func() error { return write(filepath.Join("directory", "file"), "1", true) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func write(path, text string, flushed bool) error {
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil || !flushed {
		return err
	}
	return flush(path)
}

func flush(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// start starts a child in a directory.
func start(t *testing.T, w *syscalls.Watch, dir, action string) (cmd *exec.Cmd, out *bytes.Buffer) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd, out = exec.Command(self), new(bytes.Buffer)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), childVariable+"="+action)
	cmd.Stdout, cmd.Stderr = out, out
	if err := w.Start(cmd); err != nil {
		t.Fatal(err)
	}
	return cmd, out
}

func realPath(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func wait(t *testing.T, event string, happened func() bool) {
	t.Helper()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(time.Minute); !happened(); <-poll.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited a minute for %s", event)
		}
	}
}

// TestInject makes calls on one of two files fail.
func TestInject(t *testing.T) {
	for name, tc := range map[string]struct {
		fault syscalls.Fault
		want  string // the outcome of each record: o for ok, i for EIO, n for ENOSPC
		seen  int
	}{
		"none":             {syscalls.Fault{Calls: []string{"fsync"}, First: 6, Errno: unix.EIO}, "ooooo", 5},
		"the third":        {syscalls.Fault{Calls: []string{"fsync"}, First: 3, Once: true, Errno: unix.EIO}, "ooioo", 5},
		"from the third":   {syscalls.Fault{Calls: []string{"pwrite64"}, First: 3, Errno: unix.ENOSPC}, "oonnn", 5},
		"the first":        {syscalls.Fault{Calls: []string{"pwrite64"}, Once: true, Errno: unix.EIO}, "ioooo", 5},
		"of several calls": {syscalls.Fault{Calls: []string{"pwrite64", "fsync"}, First: 4, Once: true, Errno: unix.EIO}, "oiooo", 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			tc.fault.Match = syscalls.WithPrefix(realPath(t, dir) + "/records")
			w := new(syscalls.Watch)
			i := w.Inject(tc.fault)
			cmd, out := start(t, w, dir, "write")
			if err := cmd.Wait(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			got := ""
			for line := range strings.Lines(out.String()) {
				switch {
				case line == "ok\n":
					got += "o"
				case strings.Contains(line, unix.EIO.Error()):
					got += "i"
				case strings.Contains(line, unix.ENOSPC.Error()):
					got += "n"
				}
			}
			if hits := strings.Count(tc.want, "i") + strings.Count(tc.want, "n"); got != tc.want || i.Seen() != tc.seen || i.Hits() != hits {
				t.Errorf("got %q, %d calls seen, %d hit, want %q, %d and %d:\n%s", got, i.Seen(), i.Hits(), tc.want, tc.seen, hits, out)
			}
		})
	}
}

// TestHang makes a call hang. The child must continue after the injection is lifted.
func TestHang(t *testing.T) {
	dir, w := t.TempDir(), new(syscalls.Watch)
	i := w.Inject(syscalls.Fault{Calls: []string{"fsync"}, Match: syscalls.WithPrefix(realPath(t, dir) + "/records"), First: 2})
	cmd, out := start(t, w, dir, "write")
	wait(t, "the call to hang", func() bool { return i.Hits() == 1 })
	if info, err := os.Stat(filepath.Join(dir, "records")); err != nil || info.Size() != 2 {
		t.Errorf("during the second flush: got %v, %v, want a file with two records", info, err)
	}
	i.Lift()
	if err := cmd.Wait(); err != nil || out.String() != strings.Repeat("ok\n", records) || i.Seen() != 2 {
		t.Errorf("got %v, %d calls seen and %q, want 2 calls and %d times ok", err, i.Seen(), out, records)
	}
}

// TestPaths makes a call fail that names its files.
func TestPaths(t *testing.T) {
	dir, w := t.TempDir(), new(syscalls.Watch)
	i := w.Inject(syscalls.Fault{Calls: []string{"rename"}, Match: syscalls.WithPrefix(realPath(t, dir) + "/renamed"), Errno: unix.EIO})
	cmd, out := start(t, w, dir, "write")
	if err := cmd.Wait(); err == nil || i.Hits() != 1 || !strings.Contains(out.String(), "rename records renamed") {
		t.Errorf("got %v, %d hits and %s, want a rename that failed", err, i.Hits(), out)
	}
}

// TestKilled kills a child that hangs.
func TestKilled(t *testing.T) {
	dir, w := t.TempDir(), new(syscalls.Watch)
	i := w.Inject(syscalls.Fault{Calls: []string{"openat"}, Match: syscalls.WithPrefix(realPath(t, dir) + "/records")})
	defer i.Lift()
	cmd, _ := start(t, w, dir, "write")
	wait(t, "the call to hang", func() bool { return i.Hits() == 1 })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // returns an error, because the child was killed
}

// TestDisk compares what a power failure would leave with what was flushed.
func TestDisk(t *testing.T) {
	before := map[string]string{"changed": "old", "removed": "old", "renamed": "old", "removed later": "old"}
	flushed := map[string]string{"flushed": "1", "only its name": "", "changed": "old", "renamed": "old", "removed later": "old"}
	for dropped, want := range map[bool]map[string]string{true: before, false: flushed} {
		dir, left := t.TempDir(), t.TempDir()
		for name, text := range before {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Mkdir(filepath.Join(dir, "directory"), 0o700); err != nil {
			t.Fatal(err)
		}
		d, err := syscalls.NewDisk(dir)
		if err != nil {
			t.Fatal(err)
		}
		d.DropFlushes = dropped
		w := new(syscalls.Watch)
		w.Intercept(d.Intercept)
		cmd, out := start(t, w, dir, "flush")
		if err := cmd.Wait(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if err := d.WriteTo(left); err != nil {
			t.Fatal(err)
		}
		if got := contents(t, left); !maps.Equal(got, want) {
			t.Errorf("flushes dropped: %v: got %q, want %q", dropped, got, want)
		}
	}
}

// TestFailedFlush makes the third flush of a file fail. The file then has only what the program had flushed
// before.
func TestFailedFlush(t *testing.T) {
	dir := t.TempDir()
	d, err := syscalls.NewDisk(dir)
	if err != nil {
		t.Fatal(err)
	}
	flushes, ofRecords := 0, syscalls.WithPrefix(realPath(t, dir)+"/records")
	d.FailFlush = func(c syscalls.Call) bool {
		if !ofRecords(c) {
			return false
		}
		flushes++
		return flushes == 3
	}
	after := make(chan string, records) // the file's content at the next write
	w := new(syscalls.Watch)
	w.Intercept(d.Intercept)
	w.Intercept(func(c syscalls.Call) syscalls.Action {
		if c.Name == "pwrite64" && flushes == 3 {
			content, err := os.ReadFile(filepath.Join(dir, "records"))
			if err != nil {
				content = []byte(err.Error())
			}
			after <- string(content)
		}
		return syscalls.Action{}
	})
	cmd, out := start(t, w, dir, "write")
	if err := cmd.Wait(); err != nil || strings.Count(out.String(), "ok\n") != records-1 {
		t.Fatalf("%v: got %s, want one record that was not flushed", err, out)
	}
	if got := <-after; got != "xx\x00" {
		t.Errorf("after the flush that failed, the file has %q, want the first two records and a zero", got)
	}
}

// contents returns the contents of the files in a directory and below it.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		all[strings.TrimPrefix(path, dir+"/")] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
