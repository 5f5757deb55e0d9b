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

// childVariable names the environment variable with the action of a child process, which runs it
// instead of the tests.
const childVariable = "DURABLE_TEST_CHILD"

func TestMain(m *testing.M) {
	if action := os.Getenv(childVariable); action != "" {
		os.Exit(child(action, os.Args[1]))
	}
	os.Exit(m.Run())
}

// child runs one action on a file and returns its exit status: 0 for success, 3 if there was no
// space, 4 if someone else holds the lock, and 1 for other errors.
func child(action, path string) int {
	err := fmt.Errorf("unknown action %q", action)
	switch action {
	case "lock":
		_, err = durable.LockFile(path)
	case "lock until EOF":
		if _, err = durable.LockFile(path); err == nil {
			fmt.Println("locked")
			_, err = io.Copy(io.Discard, os.Stdin)
		}
	case "write", "create":
		signal.Ignore(unix.SIGXFSZ)
		if err = unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 10, Max: 10}); err != nil {
			break
		}
		if action == "write" {
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

func command(t *testing.T, action, path string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], path)
	cmd.Env = append(os.Environ(), childVariable+"="+action)
	cmd.Stderr = os.Stderr
	return cmd
}

// runChild runs an action in a child process and returns its exit status.
func runChild(t *testing.T, action, path string) int {
	t.Helper()
	cmd := command(t, action, path)
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

// wantDir checks that a directory holds exactly the files in contents.
func wantDir(t *testing.T, dir string, contents map[string]string) {
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
		t.Errorf("directory: got %q, want %q", got, contents)
	}
}

func wantMode(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != mode {
		t.Errorf("mode of %q: got %v, want %v", filepath.Base(path), info.Mode(), mode)
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
		wantDir(t, dir, map[string]string{"file": content})
		wantMode(t, path, mode) // independent of the umask and the old file's mode
	}
}

// TestReplace checks that readers see the old content while the new one is written, and that only
// the owner can read the unfinished file.
func TestReplace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	writeOld(t, path)
	err := durable.Replace(path, 0o644, func(w io.Writer) error {
		if _, err := io.WriteString(w, "ne"); err != nil {
			return err
		}
		if content, err := os.ReadFile(path); err != nil || string(content) != "old" {
			t.Errorf("a reader: got %q, %v, want \"old\"", content, err)
		}
		temps, err := filepath.Glob(path + ".new-*")
		if err != nil || len(temps) != 1 {
			t.Fatalf("temporary files: got %v, %v, want one", temps, err)
		}
		wantMode(t, temps[0], 0o600)
		_, err = io.WriteString(w, "w")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	wantDir(t, dir, map[string]string{"file": "new"})
}

// TestFails checks that an error leaves the old file or none, and no temporary file.
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
			t.Errorf("Replace: got %v, want the error of write", err)
		}
		wantDir(t, dir, old)
		for _, action := range []string{"write", "create"} {
			if status := runChild(t, action, path); status != 3 {
				t.Errorf("%s without space: got exit status %d, want 3", action, status)
			}
			wantDir(t, dir, old)
		}
	}
	missing := filepath.Join(t.TempDir(), "missing", "file")
	err := errors.Join(durable.Write(missing, nil, 0o600), durable.Create(missing, nil))
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "missing") {
		t.Errorf("in a directory that does not exist: got %v, want fs.ErrNotExist and the path", err)
	}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "taken", "inside"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.Write(filepath.Join(dir, "taken"), nil, 0o600); err == nil {
		t.Error("Write to a non-empty directory: got nil, want an error")
	}
	if temps, err := filepath.Glob(filepath.Join(dir, "*.new-*")); err != nil || len(temps) != 0 {
		t.Errorf("temporary files: got %v, %v, want none", temps, err)
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
		t.Errorf("Create of an existing file: got %v, want fs.ErrExist", err)
	}
	wantDir(t, dir, map[string]string{"file": "first"})
}

// TestSymlinks checks that Write replaces a symbolic link and that Create refuses one. Neither
// follows it.
func TestSymlinks(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	writeOld(t, target)
	if err := os.Symlink("target", link); err != nil {
		t.Fatal(err)
	}
	if err := durable.Create(link, []byte("new")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create at a symbolic link: got %v, want fs.ErrExist", err)
	}
	wantDir(t, dir, map[string]string{"target": "old", "link": "old"})
	if err := durable.Write(link, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantDir(t, dir, map[string]string{"target": "old", "link": "new"})
	wantMode(t, link, 0o600)
}

func TestSyncDir(t *testing.T) {
	if err := durable.SyncDir(t.TempDir()); err != nil {
		t.Error(err)
	}
	if err := durable.SyncDir(filepath.Join(t.TempDir(), "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory that does not exist: got %v, want fs.ErrNotExist", err)
	}
}

// TestLock checks that a lock excludes this process and others until it is released.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := durable.LockFile(path)
	if err != nil {
		t.Fatal(err)
	}
	wantMode(t, path, 0o600)
	if _, err := durable.LockFile(path); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("in this process: got %v, want ErrLocked", err)
	}
	if status := runChild(t, "lock", path); status != 4 {
		t.Errorf("in another process: got exit status %d, want 4", status)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	if status := runChild(t, "lock", path); status != 0 {
		t.Errorf("in another process after unlocking: got exit status %d, want 0", status)
	}
}

// TestLockOfKilled checks that killing a process releases its lock.
func TestLockOfKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	cmd := command(t, "lock until EOF", path)
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
	line := make([]byte, len("locked\n"))
	if _, err := io.ReadFull(stdout, line); err != nil {
		t.Fatal(err)
	}
	if _, err := durable.LockFile(path); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("while another process holds the lock: got %v, want ErrLocked", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // returns an error, because the process was killed
	unlock, err := durable.LockFile(path)
	if err != nil {
		t.Fatalf("after the process was killed: %v", err)
	}
	if err := unlock(); err != nil {
		t.Error(err)
	}
}
