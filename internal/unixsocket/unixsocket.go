// Package unixsocket listens on Unix sockets and connects to them, and says which process is at the
// other end.
//
// The kernel's address of a socket has room for a short path only. On Linux, this package reaches a
// socket with a longer path through a descriptor of its directory. A socket is always at its path,
// and never in another directory that happens to be shorter.
package unixsocket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
)

// maxPath is the most bytes of a path in a socket's address: sun_path without its terminating
// zero, unix(7).
const maxPath = len(syscall.RawSockaddrUnix{}.Path) - 1 // 107 on Linux, 103 on macOS

// CheckPath returns an error if a path is too long for a socket.
func CheckPath(path string) error {
	if len(path) <= maxPath {
		return nil
	}
	return checkPath(path)
}

// address returns a path to a socket that fits into the kernel's address. It is valid until done is
// called.
func address(path string) (fitting string, done func(), err error) {
	if len(path) <= maxPath {
		return path, func() {}, nil
	}
	if err := checkPath(path); err != nil {
		return "", nil, err
	}
	return shorten(path)
}

// Listen creates a socket at path and listens on it. Closing the listener removes the socket.
func Listen(path string) (net.Listener, error) {
	fitting, done, err := address(path)
	if err != nil {
		return nil, fmt.Errorf("listening on %q: %w", path, err)
	}
	defer done()
	l, err := net.Listen("unix", fitting)
	if err != nil {
		return nil, failure(path, err)
	}
	if short, ok := l.(*net.UnixListener); ok && fitting != path {
		short.SetUnlinkOnClose(false) // the path that short knows is valid only now
		return &listener{short, path}, nil
	}
	return l, nil
}

// A listener listens at a path that is longer than maxPath.
type listener struct {
	*net.UnixListener
	path string
}

func (l *listener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close closes the listener. The first call removes the socket.
func (l *listener) Close() error {
	err := l.UnixListener.Close()
	if err == nil {
		_ = os.Remove(l.path) // as net.UnixListener does, which ignores the error, too
	}
	return err
}

// Dial connects to the socket at path. Its error is a *net.OpError whose Op is "dial".
func Dial(ctx context.Context, path string) (net.Conn, error) {
	fitting, done, err := address(path)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "unix", Addr: &net.UnixAddr{Name: path, Net: "unix"}, Err: err}
	}
	defer done()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", fitting)
	if err != nil {
		return nil, failure(path, err)
	}
	return conn, nil
}

// failure returns an error of package net with the path that the caller knows.
func failure(path string, err error) error {
	var failed *net.OpError
	if errors.As(err, &failed) {
		failed.Addr = &net.UnixAddr{Name: path, Net: "unix"}
	}
	return err
}

// Peer returns the uid and the pid of the process at the other end of a connection, as the kernel
// recorded them: for a client, when the other process began to listen; for a server, when the other
// process connected.
func Peer(conn net.Conn) (uid uint32, pid int, err error) {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, 0, errors.New("the connection is not a unix socket")
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	controlErr := raw.Control(func(fd uintptr) { uid, pid, err = credentials(int(fd)) })
	return uid, pid, errors.Join(controlErr, err)
}
