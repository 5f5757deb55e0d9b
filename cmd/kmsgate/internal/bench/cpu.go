package bench

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ProcessorTime returns the time that all threads of a process have spent on processors, in user mode
// and in the kernel, as the kernel accounts it. pid 0 is this process.
func ProcessorTime(pid int) (time.Duration, error) {
	clock := int32(unix.CLOCK_PROCESS_CPUTIME_ID)
	if pid != 0 {
		clock = int32(^pid<<3 | scheduled)
	}
	var t unix.Timespec
	if err := unix.ClockGettime(clock, &t); err != nil {
		if pid < 0 || err == unix.EINVAL {
			return 0, fmt.Errorf("reading the processor time of process %d: no such process on this machine", pid)
		}
		return 0, fmt.Errorf("reading the processor time of process %d: %w", pid, os.NewSyscallError("clock_gettime", err))
	}
	return time.Duration(t.Nano()), nil
}

// scheduled selects the clock that counts a process's time on processors, as clock_getcpuclockid(3) does.
const scheduled = 2

// exactSleep waits more exactly than time.Sleep, whose waits are up to 1 ms longer while the program is
// idle. It occupies a thread.
func exactSleep(d time.Duration) {
	// Otherwise the kernel delays the end of a thread's sleep by up to 50 µs. Without the right to
	// change that, or in another thread, the sleep is less exact.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	t := unix.NsecToTimespec(int64(d))
	_ = unix.Nanosleep(&t, nil) // after a signal, the caller sleeps again
}
