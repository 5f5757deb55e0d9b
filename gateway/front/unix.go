package front

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// ListenUnix makes the admin door's socket at path: mode 0600, in a directory
// that is 0700, and made if it is missing. A socket that a process left that is
// gone is replaced. One process must not take another's: the caller holds the
// instance's lock.
func ListenUnix(path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("making the admin socket's directory: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return nil, fmt.Errorf("the admin socket's directory: %w", err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || info.Mode().Perm()&0o077 != 0 || !ok || int(owner.Uid) != os.Getuid() {
		return nil, fmt.Errorf("the admin socket's directory %s has to be a directory of its own that nobody but uid %d can enter (chmod 700)", dir, os.Getuid())
	}
	if old, err := os.Lstat(path); err == nil && old.Mode().Type() == os.ModeSocket {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("removing the admin socket of before: %w", err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("making the admin socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// peerKey is under which net/http hands a connection's peer to the handler.
// There is no other way from the one to the other.
type peerKey struct{}

// WithPeer is for [http.Server.ConnContext]: it keeps who is at the other end of a unix
// socket, for Peer.
func WithPeer(ctx context.Context, conn net.Conn) context.Context {
	if peer, err := peerOf(conn); err == nil {
		return context.WithValue(ctx, peerKey{}, peer)
	}
	return ctx
}

// Peer returns the uid of the process at a connection's other end, as the kernel has it.
// It is not ok if that is not known.
func Peer(ctx context.Context) (uid uint32, ok bool) {
	peer, ok := ctx.Value(peerKey{}).(*unix.Ucred)
	if !ok {
		return 0, false
	}
	return peer.Uid, true
}

func peerOf(conn net.Conn) (peer *unix.Ucred, err error) {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.New("it is no unix socket")
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil, err
	}
	controlErr := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	return peer, errors.Join(controlErr, err)
}
