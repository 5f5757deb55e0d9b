package token

import (
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// finalize calls f, which calls C_Finalize, and opens the files again that it closes,
// under their numbers. opencryptoki (3.8.1) opens its lock once, closes it there, and
// goes on with the number after the next C_Initialize: it would lock, and in the end
// close, whatever file of this process has it then.
func (t *Token) finalize(f func()) {
	before := openFiles()
	f()
	after := openFiles()
	for fd, name := range before {
		if after[fd] == name {
			continue
		}
		if err := reopen(fd, name); err != nil {
			t.log.Warn("the module has closed a file of its own, and may go on using its descriptor", "file", name, "descriptor", fd, "reason", err)
		}
	}
}

// reopen opens a file under a number, if that is free.
func reopen(fd int, name string) error {
	n, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil || n == fd {
		return err
	}
	defer unix.Close(n)
	got, err := unix.FcntlInt(uintptr(n), unix.F_DUPFD_CLOEXEC, fd) // the lowest that is free from fd on
	if err == nil && got != fd {
		err = errors.Join(errors.New("another file has it"), unix.Close(got))
	}
	return err
}

// openFiles are the lock files that this process has open, by descriptor: a module's
// own, for the gateway has none.
func openFiles() map[int]string {
	files := make(map[int]string)
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil // it is not mounted
	}
	for _, entry := range fds {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if name, err := os.Readlink("/proc/self/fd/" + entry.Name()); err == nil && strings.Contains(name, "/lock/") {
			files[fd] = name
		}
	}
	return files
}
