package p11

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// This file works around opencryptoki 3.8.1 (Debian 12), which misuses file descriptors in
// two ways. Both were measured. For other modules, this file does nothing.
//
//   - It opens its lock file once, closes it in C_Finalize, and uses the old descriptor after
//     the next C_Initialize. By then the descriptor may be another file of this process, which
//     the module would lock and finally close.
//   - If it does not find a TPM, it closes descriptor 0. The next file that this process
//     opens would get descriptor 0, and the module would close it. That file may be the
//     database.

// reopen opens files again under the descriptors that they had before C_Finalize.
func reopen(before map[int]string) (err error) {
	after := lockFiles()
	for fd, name := range before {
		if after[fd] == name {
			continue
		}
		if e := reopenAs(fd, name); e != nil {
			err = errors.Join(err, fmt.Errorf("reopening %q as descriptor %d, which the module closed but may still use: %w",
				name, fd, e))
		}
	}
	return err
}

// reopenAs opens a file as descriptor fd. It is an error if fd is in use.
func reopenAs(fd int, name string) error {
	n, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil || n == fd {
		return err
	}
	defer unix.Close(n)
	got, err := unix.FcntlInt(uintptr(n), unix.F_DUPFD_CLOEXEC, fd) // the lowest free descriptor ≥ fd
	if err == nil && got != fd {
		err = errors.Join(errors.New("another file uses this descriptor"), unix.Close(got))
	}
	return err
}

// lockFiles returns the open files of this process in directories named "lock", by
// descriptor. Modules keep their lock files there.
func lockFiles() map[int]string {
	files := make(map[int]string)
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil // /proc is not mounted
	}
	for _, entry := range fds {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		name, err := os.Readlink("/proc/self/fd/" + entry.Name())
		if err == nil && strings.Contains(name, "/lock/") {
			files[fd] = name
		}
	}
	return files
}

// KeepStandardInput opens descriptor 0 again if the module has closed it. It must be called
// after every C_Initialize, including those of other bindings.
func KeepStandardInput() {
	if _, err := unix.FcntlInt(0, unix.F_GETFD, 0); err == unix.EBADF {
		_, _ = unix.Open(os.DevNull, unix.O_RDONLY, 0) // gets the lowest free descriptor, 0
	}
}
