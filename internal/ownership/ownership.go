// Package ownership says whether other users of this machine can change a file.
//
// A process believes root and the user that it runs as. A file that another user can write must not
// decide which code the process loads, or to which gateway it talks.
//
// A group counts as the process itself if it is root's or the process's effective group: many
// systems give every user a group of one, and create files that this group can write. This package
// does not care who can read a file.
package ownership

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// An Error says that another user can change a file or a directory. All other errors of this
// package say why something could not be examined.
type Error struct {
	Path  string // of the file, or of a directory or symbolic link that leads to it
	Owner int    // the owner of Path if that is the other user, else -1
	text  string // continues a sentence that starts with Path
}

func (e *Error) Error() string { return fmt.Sprintf("%q %s", e.Path, e.text) }

// Trusts reports whether this process believes a user: root, the user that it runs as, and more.
func Trusts(uid int, more ...int) bool {
	return uid == 0 || uid == os.Geteuid() || slices.Contains(more, uid)
}

// CheckFile returns an [*Error] if another user can change the file at path, or put another in its
// place. It examines the file, every symbolic link at path, the directory of each of them, and
// whether a directory above is writable by all users. In a sticky directory, such as /tmp, users
// cannot replace the files of others, so its mode does not matter.
func CheckFile(path string) error {
	_, err := checkFile(path)
	return err
}

// CheckOpen is CheckFile for an open file. It also returns an [*Error] if the path that the file
// was opened by denotes another file now. A pipe has no path: only its owner and its mode count.
func CheckOpen(f *os.File) error {
	opened, err := f.Stat()
	if err != nil {
		return err
	}
	if opened.Mode()&fs.ModeNamedPipe != 0 {
		return cmp.Or(checkOwner(f.Name(), opened), checkMode(f.Name(), opened))
	}
	found, err := checkFile(f.Name())
	if err != nil {
		return err
	}
	if !os.SameFile(found, opened) {
		return &Error{f.Name(), -1, "was replaced after it was opened (run the command again)"}
	}
	return nil
}

// maxLinks is how many symbolic links Linux follows.
const maxLinks = 40

// checkFile is CheckFile. It returns what is at the path.
func checkFile(path string) (fs.FileInfo, error) {
	for range maxLinks {
		dir, err := realPath(filepath.Dir(path))
		if err != nil {
			return nil, err
		}
		if err := checkHolder(dir); err != nil {
			return nil, err
		}
		path = filepath.Join(dir, filepath.Base(path))
		info, err := os.Lstat(path)
		if err != nil {
			return nil, err
		}
		if err := checkOwner(path, info); err != nil {
			return nil, err
		}
		if info.Mode().Type() != fs.ModeSymlink {
			return info, checkMode(path, info)
		}
		target, err := os.Readlink(path)
		if err != nil {
			return nil, err
		}
		if path = target; !filepath.IsAbs(target) {
			path = filepath.Join(dir, target)
		}
	}
	return nil, &fs.PathError{Op: "open", Path: path, Err: syscall.ELOOP}
}

// CheckDirectory returns an [*Error] if another user can create files in a directory, and if a
// directory above is writable by all users and not sticky. The owner of the directory can be one of
// trusted, too.
func CheckDirectory(dir string, trusted ...int) error {
	dir, err := realPath(dir)
	if err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	return cmp.Or(checkOwner(dir, info, trusted...), checkMode(dir, info), checkAbove(dir))
}

// realPath returns the absolute path without symbolic links.
func realPath(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(path)
}

// checkHolder checks a directory that holds a file.
func checkHolder(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if err := checkOwner(dir, info); err != nil {
		return err
	}
	if info.Mode()&fs.ModeSticky == 0 {
		if err := checkMode(dir, info); err != nil {
			return err
		}
	}
	return checkAbove(dir)
}

func checkOwner(path string, info fs.FileInfo, trusted ...int) error {
	owner := -1
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		owner = int(s.Uid)
	}
	if owner >= 0 && Trusts(owner, trusted...) {
		return nil
	}
	return &Error{path, owner, fmt.Sprintf("belongs to uid %d, who can change it, and you are uid %d (run the command as "+
		"uid %[1]d if you trust that user, or run chown %[2]d %[3]s)", owner, os.Geteuid(), path)}
}

func checkMode(path string, info fs.FileInfo) error {
	mode := info.Mode().Perm()
	if mode&0o022 != 0 && isReadOnly(path) {
		return nil // nobody can write it: it is in a volume of Kubernetes, for example
	}
	if mode&0o002 != 0 {
		return &Error{path, -1, "is writable by all users (run chmod o-w " + path + ")"}
	}
	if s, ok := info.Sys().(*syscall.Stat_t); mode&0o020 != 0 && (!ok || s.Gid != 0 && int(s.Gid) != os.Getegid()) {
		return &Error{path, -1, "is writable by a group that is neither root's nor yours (run chmod g-w " + path + ")"}
	}
	return nil
}

// checkAbove checks that no directory above dir is writable by all users, unless it is sticky.
func checkAbove(dir string) error {
	for dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if info.Mode()&fs.ModeSticky == 0 && info.Mode().Perm()&0o002 != 0 && !isReadOnly(dir) {
			return &Error{dir, -1, "is writable by all users, who can replace what is in it (run chmod o-w " + dir + ")"}
		}
	}
	return nil
}

// isReadOnly reports whether a path is on a file system that is mounted read-only.
func isReadOnly(path string) bool {
	var s unix.Statfs_t
	return unix.Statfs(path, &s) == nil && s.Flags&readOnly != 0
}
