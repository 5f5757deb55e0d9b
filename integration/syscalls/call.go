package syscalls

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// names are the calls that are intercepted, by number. All calls that rename a file have one name.
var names = map[int32]string{
	unix.SYS_OPENAT:    "openat",
	unix.SYS_WRITE:     "write",
	unix.SYS_PWRITE64:  "pwrite64",
	unix.SYS_FTRUNCATE: "ftruncate",
	unix.SYS_FSYNC:     "fsync",
	unix.SYS_FDATASYNC: "fdatasync",
	unix.SYS_SYNCFS:    "syncfs",
	unix.SYS_RENAMEAT:  "rename",
	unix.SYS_RENAMEAT2: "rename",
	oldRename:          "rename",
}

// A Call is a system call that the program waits to make.
type Call struct {
	Name string // openat, write, pwrite64, ftruncate, fsync, fdatasync, syncfs or rename
	FD   int    // the descriptor; -1 if the call names a path instead

	thread uint32
	paths  []pathArgument
}

// A pathArgument is a path among a call's arguments.
type pathArgument struct {
	dir     int32 // the descriptor of the directory that a relative path starts at, or AT_FDCWD
	address uint64
}

// newCall decodes the arguments of a call.
func newCall(n *notification) Call {
	c := Call{Name: names[n.number], FD: -1, thread: n.thread}
	add := func(dir, path int) { c.paths = append(c.paths, pathArgument{int32(n.args[dir]), n.args[path]}) }
	switch n.number {
	case unix.SYS_OPENAT:
		add(0, 1)
	case unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2:
		add(0, 1)
		add(2, 3)
	case oldRename:
		c.paths = []pathArgument{{unix.AT_FDCWD, n.args[0]}, {unix.AT_FDCWD, n.args[1]}}
	default:
		c.FD = int(int32(n.args[0]))
	}
	return c
}

// Paths returns the paths of the files that the call is about: the one that the descriptor is open
// on, or the ones that the call names. They are absolute. The path of a descriptor that is no file
// has no slash at the start, and a path that cannot be determined is missing.
func (c Call) Paths() (paths []string) {
	if c.FD >= 0 {
		path, err := os.Readlink(c.descriptor())
		if err != nil {
			return nil // the program has been killed
		}
		return []string{path}
	}
	for _, p := range c.paths {
		if path := c.read(p); path != "" {
			paths = append(paths, path)
		}
	}
	return paths
}

// descriptor returns a path through which this process can open the call's file, even if the file
// has been renamed or removed.
func (c Call) descriptor() string { return fmt.Sprintf("/proc/%d/fd/%d", c.thread, c.FD) }

// read reads a path from the program's memory.
func (c Call) read(p pathArgument) string {
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", c.thread))
	if err != nil {
		return ""
	}
	defer memory.Close()
	buffer := make([]byte, unix.PathMax)
	n, _ := memory.ReadAt(buffer, int64(p.address)) // the program's memory may end before the buffer does
	text, _, ok := bytes.Cut(buffer[:n], []byte{0})
	if path := string(text); !ok || filepath.IsAbs(path) {
		return path
	}
	start := fmt.Sprintf("/proc/%d/cwd", c.thread)
	if p.dir != unix.AT_FDCWD {
		start = fmt.Sprintf("/proc/%d/fd/%d", c.thread, p.dir)
	}
	dir, err := os.Readlink(start)
	if err != nil {
		return ""
	}
	return filepath.Join(dir, string(text))
}

// WithPrefix returns a condition for [Fault]: a path of the call starts with one of the prefixes.
func WithPrefix(prefixes ...string) func(Call) bool {
	return func(c Call) bool {
		for _, path := range c.Paths() {
			for _, prefix := range prefixes {
				if strings.HasPrefix(path, prefix) {
					return true
				}
			}
		}
		return false
	}
}

// ToStderr is a condition for [Fault]: the call is on the program's standard error.
func ToStderr(c Call) bool { return c.FD == 2 }
