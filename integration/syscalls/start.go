package syscalls

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// variable is set in the environment of the process that installs the filter.
const variable = "KMSGATE_TEST_WATCHED"

// channel is that process's descriptor of the socket to the test.
const channel = 3

// startTimeout limits how long the process may take to install the filter.
const startTimeout = time.Minute

// Start starts a command and intercepts the calls of its program. The process has the program's ID
// from the beginning. The command must not use ExtraFiles. A Watch can start one command.
func (w *Watch) Start(cmd *exec.Cmd) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "test"), os.NewFile(uintptr(pair[1]), "program")
	defer ours.Close()
	cmd.Env = append(cmd.Environ(), variable+"=1")
	cmd.Args = append([]string{self, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = self
	cmd.ExtraFiles = []*os.File{theirs}
	// The test must not keep the program's end open, or it would not notice that the process ends.
	if err := errors.Join(cmd.Start(), theirs.Close()); err != nil {
		return err
	}
	if w.listener, err = receive(ours); err != nil {
		_ = cmd.Process.Kill() // it may have exited
		return errors.Join(fmt.Errorf("intercepting the system calls of %q: %w", cmd.Args[1], err), cmd.Wait())
	}
	go w.serve()
	return nil
}

// receive receives the descriptor that Main sends.
func receive(socket *os.File) (listener int, err error) {
	c, err := net.FileConn(socket)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(startTimeout)); err != nil {
		return 0, err
	}
	text, rights := make([]byte, 1024), make([]byte, unix.CmsgSpace(4))
	n, size, _, _, err := c.(*net.UnixConn).ReadMsgUnix(text, rights)
	if err != nil {
		return 0, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:size])
	if err != nil {
		return 0, err
	}
	if len(messages) != 1 {
		return 0, errors.New(string(text[:n])) // of Main
	}
	descriptors, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return 0, err
	}
	return descriptors[0], nil
}

// Main returns at once in every process except the ones that [Watch.Start] makes. There, it
// installs the filter, replaces the test binary by the program, and does not return.
func Main() {
	if os.Getenv(variable) == "" {
		return
	}
	err := become(os.Args[1:])
	_ = unix.Send(channel, []byte(err.Error()), 0) // the filter would hold a write
	os.Exit(1)
}

// become runs the program that args name. It returns only if it cannot.
func become(args []string) error {
	runtime.LockOSThread() // the filter is on this thread, which survives the exec
	if err := os.Unsetenv(variable); err != nil {
		return err
	}
	unix.CloseOnExec(channel)
	environment := os.Environ()
	listener, err := install()
	if err != nil {
		return fmt.Errorf("installing a seccomp filter: %w", err)
	}
	if err := unix.Sendmsg(channel, []byte{0}, unix.UnixRights(listener), nil, 0); err != nil {
		return err
	}
	return unix.Exec(args[0], args, environment)
}

// install installs the filter on this thread.
func install() (listener int, err error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, err
	}
	instructions := filter()
	program := unix.SockFprog{Len: uint16(len(instructions)), Filter: &instructions[0]}
	// WAIT_KILLABLE_RECV: otherwise the signals by which Go preempts goroutines would restart a call
	// that is held, and the test would count it twice.
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags,
		uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return 0, errno
	}
	return int(fd), nil
}

// filter returns a filter that holds the calls in names and lets all others pass.
func filter() []unix.SockFilter {
	const (
		load   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equals = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		end    = unix.BPF_RET | unix.BPF_K

		numberOffset, archOffset = 0, 4 // in struct seccomp_data
	)
	all := []unix.SockFilter{
		{Code: load, K: archOffset},
		{Code: equals, K: arch, Jt: 1},
		{Code: end, K: unix.SECCOMP_RET_ALLOW},
		{Code: load, K: numberOffset},
	}
	left := len(names) // comparisons still to come; each jumps to the last instruction
	for number := range names {
		all = append(all, unix.SockFilter{Code: equals, K: uint32(number), Jt: uint8(left)})
		left--
	}
	return append(all,
		unix.SockFilter{Code: end, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: end, K: unix.SECCOMP_RET_USER_NOTIF})
}
