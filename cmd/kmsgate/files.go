package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// writeFile replaces a file by rename, flushed before: whoever reads it sees all
// of the old or all of the new. The new one has a name that nobody can have
// prepared.
func writeFile(path string, content []byte, mode os.FileMode) error {
	return replaceFile(path, mode, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
}

// writeNew is writeFile for what is written piece by piece, and for its owner
// only.
func writeNew(path string, write func(w io.Writer) error) error {
	return replaceFile(path, 0o600, write)
}

func replaceFile(path string, mode os.FileMode, write func(w io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*")
	if err != nil {
		return err
	}
	err = write(f)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(filepath.Dir(path))
}

// createFile makes a file that there must not be yet, for its owner only: all of it,
// flushed, or none.
func createFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*") // of mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Link(f.Name(), path) // which replaces nothing, unlike a rename
	}
	linked := err == nil
	if err = errors.Join(err, os.Remove(f.Name())); err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil && linked {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

var errLocked = errors.New("in use by another kmsgate")

// lockDir makes dir and takes it for this process until it ends, however it
// ends.
func lockDir(dir string) (unlock func() error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("the directory %s is %w: stop that one, or give this one its own directory (with `kmsgate dev`: --dir)", dir, errLocked)
		}
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	return f.Close, nil
}
