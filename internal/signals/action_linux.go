package signals

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// An action is the kernel's struct sigaction of a signal: the handler, its flags and its mask. The
// layout depends on the architecture, but is never larger. Nothing here looks into it.
//
// The kernel's own interface is the only one that restores a handler of Go's runtime as it was.
// signal.Notify does nothing while the runtime believes that its handler is in place, and
// signal.Ignore before it would take the signal from everyone who receives it.
type action [16]uint64

// sigsetSize is the size of the kernel's sigset_t in bytes.
const sigsetSize = 8

func currentAction(s unix.Signal) (a action, err error) {
	err = sigaction(s, nil, &a)
	return a, err
}

func setAction(s unix.Signal, a action) error { return sigaction(s, &a, nil) }

func sigaction(s unix.Signal, set, get *action) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s),
		uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(get)), sigsetSize, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
