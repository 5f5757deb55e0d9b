package front

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/kmsgate/kmsgate/internal/unixsocket"
)

// ListenUnix creates the admin socket at path, with mode 0600. Its directory must belong to
// this user and admit nobody else; ListenUnix creates it with mode 0700 if it is missing. It
// replaces an existing socket, so the caller must hold the instance's lock. Any other file
// at path is an error.
func ListenUnix(path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("creating the admin socket's directory: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return nil, fmt.Errorf("checking the admin socket's directory: %w", err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || info.Mode().Perm()&0o077 != 0 || !ok || int(owner.Uid) != os.Getuid() {
		return nil, fmt.Errorf(
			"the admin socket's directory %q must be a directory of uid %d that nobody else can enter (chmod 700)",
			dir, os.Getuid())
	}
	if old, err := os.Lstat(path); err == nil && old.Mode().Type() == os.ModeSocket {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("removing the old admin socket: %w", err)
		}
	}
	l, err := unixsocket.Listen(path)
	if err != nil {
		return nil, fmt.Errorf("creating the admin socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("restricting the admin socket to its owner: %w", err), l.Close())
	}
	return l, nil
}

// peerKey is the context key of a connection's peer. The context is net/http's only way to
// pass something from a connection to its handlers.
type peerKey struct{}

// A PeerProcess is the process at the other end of a unix socket.
type PeerProcess struct {
	Uid      uint32 // as the kernel reports it
	LoginUid string // see [LoginUid]
}

// WithPeer returns ctx with the peer of a unix socket, for [Peer]. Set it as
// [http.Server.ConnContext]. For other connections it returns ctx.
func WithPeer(ctx context.Context, conn net.Conn) context.Context {
	uid, pid, err := unixsocket.Peer(conn)
	if err != nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, PeerProcess{uid, LoginUid(pid)})
}

// Peer returns the process at the other end of a request's connection. ok is false if the
// connection is not a unix socket, or if WithPeer was not used.
func Peer(ctx context.Context) (peer PeerProcess, ok bool) {
	peer, ok = ctx.Value(peerKey{}).(PeerProcess)
	return peer, ok
}

// LoginUid returns the uid, in decimal, that the person behind a process logged in with. It
// stays the same under su and sudo (proc_pid_loginuid(5)). It is empty if nobody logged in, as
// for a service, or if the kernel does not say. It identifies the process for the audit log
// only: a process that has ended may have passed its pid on.
func LoginUid(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/loginuid", pid))
	if err != nil {
		return ""
	}
	uid, err := strconv.ParseUint(string(text), 10, 32)
	if err != nil || uid == math.MaxUint32 { // "unset"
		return ""
	}
	return strconv.FormatUint(uid, 10)
}
