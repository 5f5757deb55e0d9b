// Package durable writes files that a crash, a power failure or a full disk leaves
// whole, and locks files against other processes.
//
// When [Write], [Replace] or [Create] returns nil, the file has all of its content
// on stable storage, and so is its directory entry. When one of them returns an error,
// or the process dies during the call, the path still has what it had before: the old
// file, or none. A reader never sees half a file. After a kill, a temporary file named
// PATH.new-NUMBER can be left in the same directory; no other case leaves one.
//
// There is one exception. If only the last step fails, the flush of the directory, Write
// and Replace return an error although readers see the new file: a power failure can
// still bring the old one back. Create removes the new file in this case.
package durable

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// The system calls of Write, Replace and Create, in this order:
//
//	openat(PATH.new-NUMBER, O_RDWR|O_CREAT|O_EXCL, 0600)  a name that nobody can have prepared
//	write                                                 the content
//	fchmod(MODE)                                          not in Create
//	fsync                                                 before the rename, or a power failure can leave an empty file
//	close
//	renameat(PATH.new-NUMBER, PATH)                       Create: linkat, which replaces nothing, then unlinkat
//	openat(DIRECTORY, O_RDONLY)
//	fsync                                                 makes the rename durable
//	close
//
// If PATH is a symbolic link, rename replaces the link and not what it points to,
// and link refuses it.

// Write replaces the file at path, or makes it.
func Write(path string, content []byte, mode os.FileMode) error {
	return Replace(path, mode, writing(content))
}

// Replace is Write for a content that is written piece by piece. An error of write
// leaves the old file.
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

// Create makes a file of mode 0600 that must not exist yet. If it exists, the error
// is fs.ErrExist.
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

// writeTemp writes and flushes a file of mode 0600 beside path, and returns its
// name. After an error there is no such file.
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

// SyncDir flushes a directory: what was made, renamed or removed in it stays so.
func SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
