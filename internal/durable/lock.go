package durable

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrLocked means that someone else holds the lock. Trying again later can succeed.
var ErrLocked = errors.New("locked by another process")

// Lock locks an open file for this process until the file is closed or the process ends in any way.
// It does not wait: if someone else holds the lock, the error is ErrLocked. The lock is advisory
// (flock): it excludes only callers that also lock the file. On NFS the file has to be open for
// writing.
func Lock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return ErrLocked
	case err != nil:
		return fmt.Errorf("locking %q: %w", f.Name(), err)
	}
	return nil
}

// LockFile locks the file at path as Lock does, and creates it with mode 0600 if it does not exist.
// unlock does not remove the file: otherwise two processes could each lock a file of that name.
func LockFile(path string) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := Lock(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f.Close, nil
}
