// Package durable writes files that survive a crash, a power failure or a full disk intact, and
// locks files against other processes.
//
// When [Write], [Replace] or [Create] returns nil, all of the file's content and its directory
// entry are on stable storage. When one of them returns an error, or the process dies during the
// call, the path is unchanged: it is the old file, or it does not exist. A reader never sees a
// partly written file. Only a kill during the call can leave a temporary file, PATH.new-NUMBER in
// the same directory.
//
// There is one exception. If only the last step fails, the flush of the directory, Write and
// Replace return an error although readers see the new file. A power failure can then still bring
// back the old one. Create removes the new file in this case.
package durable

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// The system calls of Write, Replace and Create, in this order:
//
//	openat(PATH.new-NUMBER, O_RDWR|O_CREAT|O_EXCL, 0600)
//	                                 a random name, which nobody can occupy in advance
//	write                            the content
//	fchmod(MODE)                     not in Create
//	fsync                            otherwise a power failure can leave an empty file
//	close
//	renameat(PATH.new-NUMBER, PATH)  Create: linkat, which replaces nothing, then unlinkat
//	openat(DIRECTORY, O_RDONLY)
//	fsync                            makes the rename durable
//	close
//
// If PATH is a symbolic link, rename replaces the link and not its target, and link fails.

// Write creates or replaces the file at path.
func Write(path string, content []byte, mode os.FileMode) error {
	return Replace(path, mode, writing(content))
}

// Replace is like Write, but calls write to produce the content. If write returns an error, the old
// file stays.
func Replace(path string, mode os.FileMode, write func(w io.Writer) error) error {
	name, err := writeTemp(path, func(f *os.File) error {
		return errors.Join(write(f), f.Chmod(mode))
	})
	if err != nil {
		return err
	}
	if err := os.Rename(name, path); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return SyncDir(filepath.Dir(path))
}

// Create creates a file of mode 0600. If the file exists, the error is fs.ErrExist.
func Create(path string, content []byte) error {
	name, err := writeTemp(path, func(f *os.File) error { return writing(content)(f) })
	if err != nil {
		return err
	}
	if err := os.Link(name, path); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	if err := errors.Join(os.Remove(name), SyncDir(filepath.Dir(path))); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

func writing(content []byte) func(w io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	}
}

// writeTemp writes and flushes a file of mode 0600 in path's directory and returns its name. If it
// returns an error, the file does not exist.
func writeTemp(path string, write func(f *os.File) error) (name string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*")
	if err != nil {
		return "", err
	}
	if err := errors.Join(write(f), f.Sync(), f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

// SyncDir flushes a directory, so that a power failure cannot undo the creation, renaming or
// removal of files in it.
func SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
