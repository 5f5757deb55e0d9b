package syscalls

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Disk is what a directory would have after a power failure, in the worst case: of each file, the
// content that it had when the program flushed it last, and of each directory, the names that it
// had when the program flushed it last. Its methods are safe for concurrent use.
type Disk struct {
	// DropFlushes makes the Disk ignore flushes, and the program believe that they succeeded.
	DropFlushes bool

	// FailFlush, if it is not nil, chooses flushes of a file that fail with EIO. The program then finds in
	// the file what it has flushed before, and zeros beyond: a kernel that cannot write pages may call
	// them clean and drop them. Calls of FailFlush never overlap.
	FailFlush func(Call) bool

	root  string
	mu    sync.Mutex
	files map[uint64]file             // by inode; guarded by mu
	names map[string]map[string]entry // by directory, relative to root; guarded by mu
	err   error                       // the first problem in reading the directory; guarded by mu
}

type file struct {
	content  []byte
	mode     fs.FileMode
	modified time.Time // according to the file system
	read     time.Time
}

type entry struct {
	inode uint64
	isDir bool
}

// NewDisk returns a Disk on which all that the directory root has now is flushed. The directory must
// be on one file system.
func NewDisk(root string) (*Disk, error) {
	root, err := filepath.EvalSymlinks(root)
	if err != nil {
		return nil, err
	}
	d := &Disk{root: root, files: make(map[uint64]file), names: make(map[string]map[string]entry)}
	return d, d.flushAll()
}

// Intercept is the argument for [Watch.Intercept].
func (d *Disk) Intercept(c Call) Action {
	if c.Name != "fsync" && c.Name != "fdatasync" && c.Name != "syncfs" {
		return Action{}
	}
	paths := c.Paths()
	if len(paths) == 0 || paths[0] != d.root && !strings.HasPrefix(paths[0], d.root+"/") {
		return Action{}
	}
	if d.DropFlushes {
		return Action{Skip: true}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var err error
	switch info, statErr := os.Stat(c.descriptor()); {
	case c.Name == "syncfs":
		err = d.flushAll()
	case statErr != nil:
		err = statErr
	case info.IsDir():
		err = d.flushNames(paths[0])
	case d.FailFlush != nil && d.FailFlush(c):
		d.err = errors.Join(d.err, d.drop(c.descriptor(), info))
		return Action{Errno: unix.EIO}
	default:
		err = d.flushFile(c.descriptor(), info)
	}
	if d.err == nil && !errors.Is(err, fs.ErrNotExist) { // the program has been killed, or removed a file
		d.err = err
	}
	return Action{}
}

// flushAll flushes everything. The caller must have the lock.
func (d *Disk) flushAll() error {
	return filepath.WalkDir(d.root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			err = d.flushNames(path)
		} else if err == nil && e.Type().IsRegular() {
			var info fs.FileInfo
			if info, err = e.Info(); err == nil {
				err = d.flushFile(path, info)
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the program has removed it since the directory was read
		}
		return err
	})
}

// flushFile flushes the content of the file that can be opened at path. The caller must have the
// lock.
func (d *Disk) flushFile(path string, info fs.FileInfo) error {
	old := d.files[inode(info)]
	// The times of files are coarse: only a file that had been left alone when it was read has a
	// different time after the next change.
	if old.modified.Equal(info.ModTime()) && int64(len(old.content)) == info.Size() &&
		old.read.Sub(old.modified) > time.Second {
		return nil
	}
	read := time.Now()
	content, err := os.ReadFile(path)
	if err == nil {
		d.files[inode(info)] = file{content, info.Mode().Perm(), info.ModTime(), read}
	}
	return err
}

// drop replaces the content of the file at path by the one that it had when it was flushed. The file
// keeps its size, because the program may have mapped it. The caller must have the lock.
func (d *Disk) drop(path string, info fs.FileInfo) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	content := make([]byte, info.Size())
	copy(content, d.files[inode(info)].content)
	_, err = f.WriteAt(content, 0)
	return errors.Join(err, f.Close())
}

// flushNames flushes the names in a directory. The caller must have the lock.
func (d *Disk) flushNames(path string) error {
	relative, err := filepath.Rel(d.root, path)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	flushed := make(map[string]entry)
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() && !info.Mode().IsRegular() {
			continue
		}
		if err != nil {
			return err
		}
		flushed[e.Name()] = entry{inode(info), info.IsDir()}
	}
	d.names[relative] = flushed
	return nil
}

func inode(info fs.FileInfo) uint64 { return info.Sys().(*syscall.Stat_t).Ino }

// WriteTo writes what a power failure would leave to an empty or missing directory. The program must
// have ended.
func (d *Disk) WriteTo(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return errors.Join(d.err, d.write(".", dir))
}

func (d *Disk) write(relative, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for name, e := range d.names[relative] {
		var err error
		if path := filepath.Join(dir, name); e.isDir {
			err = d.write(filepath.Join(relative, name), path)
		} else {
			f, flushed := d.files[e.inode]
			if !flushed {
				f.mode = 0o600 // the name was flushed and the content never was
			}
			err = errors.Join(os.WriteFile(path, f.content, 0o600), os.Chmod(path, f.mode))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
