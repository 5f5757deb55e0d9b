package ownership_test

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/internal/ownership"
)

// TestReadOnly checks a directory that is writable by all users, on a file system that is mounted read-only.
func TestReadOnly(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		if errors.Is(err, unix.EPERM) && os.Getenv("CI") == "" {
			t.Skip("this process may not mount file systems")
		}
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	if err := ownership.CheckDirectory(dir); err == nil {
		t.Error("a directory that all can write: got nil, want an error")
	}
	if err := unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if err := ownership.CheckDirectory(dir); err != nil {
		t.Errorf("mounted read-only: got %v, want nil", err)
	}
}
