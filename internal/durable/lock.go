package durable

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrLocked means that somebody else has the lock. Trying again can help.
var ErrLocked = errors.New("locked by another process")

// Lock locks an open file for this process until the file is closed or the process
// ends, however it ends. It does not wait: if somebody else has the lock, the error
// is ErrLocked. The lock is advisory (flock): it keeps out only those who also ask
// for it. On NFS the file has to be open for writing.
func Lock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return ErrLocked
	case err != nil:
		return fmt.Errorf("locking %s: %w", f.Name(), err)
	}
	return nil
}

// LockFile locks the file at path as Lock does, and makes it with mode 0600 if it
// does not exist. The file stays when it is unlocked: if it were removed, two
// processes could each lock a file of that name.
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
