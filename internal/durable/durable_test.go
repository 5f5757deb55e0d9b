package durable_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/internal/durable"
)

// What the test binary does in a process of its own, instead of testing.
const childVariable = "DURABLE_TEST_CHILD"

func TestMain(m *testing.M) {
	if what := os.Getenv(childVariable); what != "" {
		os.Exit(child(what, os.Args[1]))
	}
	os.Exit(m.Run())
}

// child does one thing with a file. Its exit status says how it went: 0 well, 3
// there was no room, 4 somebody else has the lock.
func child(what, path string) int {
	err := errors.New("unknown: " + what)
	switch what {
	case "lock":
		_, err = durable.LockFile(path)
	case "lock until told":
		if _, err = durable.LockFile(path); err == nil {
			fmt.Println("locked")
			_, err = io.Copy(io.Discard, os.Stdin)
		}
	case "write", "create":
		signal.Ignore(unix.SIGXFSZ)
		if err = unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 10, Max: 10}); err != nil {
			break
		}
		if what == "write" {
			err = durable.Write(path, bytes.Repeat([]byte("x"), 100), 0o600)
		} else {
			err = durable.Create(path, bytes.Repeat([]byte("x"), 100))
		}
	}
	switch {
	case err == nil:
		return 0
	case errors.Is(err, unix.EFBIG):
		return 3
	case errors.Is(err, durable.ErrLocked):
		return 4
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

func command(t *testing.T, what, path string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], path)
	cmd.Env = append(os.Environ(), childVariable+"="+what)
	cmd.Stderr = os.Stderr
	return cmd
}

// runChild returns the exit status of a process that does one thing.
func runChild(t *testing.T, what, path string) int {
	t.Helper()
	cmd := command(t, what, path)
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

// want checks what is in a directory: names and their contents, and nothing else.
func want(t *testing.T, dir string, contents map[string]string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		got[e.Name()] = string(content)
	}
	if fmt.Sprint(got) != fmt.Sprint(contents) {
		t.Errorf("the directory has %q, want %q", got, contents)
	}
}

func wantMode(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != mode {
		t.Errorf("%s has mode %v, want %v", filepath.Base(path), info.Mode(), mode)
	}
}

func writeOld(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("old"), 0o640); err != nil {
		t.Fatal(err)
	}
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	for content, mode := range map[string]os.FileMode{"first": 0o600, "second, longer": 0o644, "": 0o400} {
		if err := durable.Write(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		want(t, dir, map[string]string{"file": content})
		wantMode(t, path, mode) // whatever the umask and the old file's mode
	}
}

// TestReplace: while the new content is written, readers see the old one, and what
// is there of the new one is its owner's only.
func TestReplace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	writeOld(t, path)
	err := durable.Replace(path, 0o644, func(w io.Writer) error {
		if _, err := io.WriteString(w, "ne"); err != nil {
			return err
		}
		if content, err := os.ReadFile(path); err != nil || string(content) != "old" {
			t.Errorf("a reader sees %q, %v", content, err)
		}
		temps, err := filepath.Glob(path + ".new-*")
		if err != nil || len(temps) != 1 {
			t.Fatalf("the temporary files are %v, %v", temps, err)
		}
		wantMode(t, temps[0], 0o600)
		_, err = io.WriteString(w, "w")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want(t, dir, map[string]string{"file": "new"})
}

// TestFails: after an error there is the old content or none, and no temporary file.
func TestFails(t *testing.T) {
	broken := errors.New("the source is broken")
	for _, old := range []map[string]string{{}, {"file": "old"}} {
		dir := t.TempDir()
		path := filepath.Join(dir, "file")
		if old["file"] != "" {
			writeOld(t, path)
		}
		err := durable.Replace(path, 0o600, func(w io.Writer) error {
			_, err := io.WriteString(w, "half")
			return errors.Join(err, broken)
		})
		if !errors.Is(err, broken) {
			t.Errorf("Replace: %v", err)
		}
		want(t, dir, old)
		for _, what := range []string{"write", "create"} {
			if status := runChild(t, what, path); status != 3 {
				t.Errorf("%s with no room ended with status %d", what, status)
			}
			want(t, dir, old)
		}
	}
	none := filepath.Join(t.TempDir(), "none", "file")
	if err := errors.Join(durable.Write(none, nil, 0o600), durable.Create(none, nil)); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "none") {
		t.Errorf("in a directory that does not exist: %v", err)
	}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "taken", "inside"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.Write(filepath.Join(dir, "taken"), nil, 0o600); err == nil {
		t.Error("a directory was replaced")
	}
	if temps, err := filepath.Glob(filepath.Join(dir, "*.new-*")); err != nil || len(temps) != 0 {
		t.Errorf("the temporary files %v are left, %v", temps, err)
	}
}

func TestCreate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := durable.Create(path, []byte("first")); err != nil {
		t.Fatal(err)
	}
	wantMode(t, path, 0o600)
	if err := durable.Create(path, []byte("second")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create of a file that exists: %v", err)
	}
	want(t, dir, map[string]string{"file": "first"})
}

// TestSymlinks: a link is replaced, not followed, and in the way of a new file.
func TestSymlinks(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	writeOld(t, target)
	if err := os.Symlink("target", link); err != nil {
		t.Fatal(err)
	}
	if err := durable.Create(link, []byte("new")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create at a link: %v", err)
	}
	want(t, dir, map[string]string{"target": "old", "link": "old"})
	if err := durable.Write(link, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	want(t, dir, map[string]string{"target": "old", "link": "new"})
	wantMode(t, link, 0o600)
}

func TestSyncDir(t *testing.T) {
	if err := durable.SyncDir(t.TempDir()); err != nil {
		t.Error(err)
	}
	if err := durable.SyncDir(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory that does not exist: %v", err)
	}
}

// TestLock: a lock keeps others out, in this process and in another one, until it
// is given back.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := durable.LockFile(path)
	if err != nil {
		t.Fatal(err)
	}
	wantMode(t, path, 0o600)
	if _, err := durable.LockFile(path); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("in this process: %v", err)
	}
	if status := runChild(t, "lock", path); status != 4 {
		t.Errorf("another process ended with status %d", status)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	if status := runChild(t, "lock", path); status != 0 {
		t.Errorf("another process, when it was unlocked, ended with status %d", status)
	}
}

// TestLockOfKilled: the lock of a process that was killed is free.
func TestLockOfKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	cmd := command(t, "lock until told", path)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, len("locked\n"))
	if _, err := io.ReadFull(stdout, said); err != nil {
		t.Fatal(err)
	}
	if _, err := durable.LockFile(path); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("while another process has it: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // the error says that it was killed
	unlock, err := durable.LockFile(path)
	if err != nil {
		t.Fatalf("when it was killed: %v", err)
	}
	if err := unlock(); err != nil {
		t.Error(err)
	}
}
