// Package unixsockettest puts sockets of other users in the way of tests.
package unixsockettest

import (
	"errors"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
)

// ListenAs listens at path as a user, until the test ends: the kernel says that a process of that
// user is at the other end of each connection. Only root can listen as another user.
func ListenAs(t testing.TB, uid int, path string) net.Listener {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	socket := os.NewFile(uintptr(fd), path)
	defer socket.Close() // FileListener duplicates it
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}), listenAs(fd, uid)); err != nil {
		t.Fatalf("listening at %q as uid %d: %v", path, uid, err)
	}
	l, err := net.FileListener(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// listenAs listens on a thread whose user is uid. The thread ends with its goroutine, because that
// stays locked to it.
func listenAs(fd, uid int) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		const unchanged = ^uintptr(0)
		// syscall.Setresuid would change all threads.
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, unchanged, uintptr(uid), unchanged); errno != 0 {
			done <- errno
			return
		}
		done <- syscall.Listen(fd, 16)
	}()
	return <-done
}
