package p11

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// This file is for opencryptoki 3.8.1 (Debian 12), which misuses file descriptors in
// two ways. Both are measured, and for other modules it does nothing:
//
//   - It opens its lock file once, closes it in C_Finalize, and goes on with the number
//     after the next C_Initialize: it would lock, and in the end close, whatever file
//     of this process has that number then.
//   - If it does not find a TPM, it closes descriptor 0. The next file that this process
//     opens would be 0, the module would close that, and it may be the database.

// reopen opens files again, under the numbers that they had before C_Finalize.
func reopen(before map[int]string) (err error) {
	after := lockFiles()
	for fd, name := range before {
		if after[fd] == name {
			continue
		}
		if e := reopenAs(fd, name); e != nil {
			err = errors.Join(err, fmt.Errorf("the module has closed %s and may go on using its descriptor %d: %w", name, fd, e))
		}
	}
	return err
}

// reopenAs opens a file under a number, if that is free.
func reopenAs(fd int, name string) error {
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

// lockFiles are the files in directories named "lock" that this process has open, by
// descriptor: modules have them there.
func lockFiles() map[int]string {
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

// KeepStandardInput opens descriptor 0 again if the module has closed it. It belongs
// after C_Initialize, whoever calls that.
func KeepStandardInput() {
	if _, err := unix.FcntlInt(0, unix.F_GETFD, 0); err == unix.EBADF {
		_, _ = unix.Open(os.DevNull, unix.O_RDONLY, 0) // the lowest that is free: 0
	}
}
