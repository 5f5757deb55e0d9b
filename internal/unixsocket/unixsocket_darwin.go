package unixsocket

import (
	"fmt"

	"golang.org/x/sys/unix"
)

func checkPath(path string) error {
	return fmt.Errorf("the socket's path has %d bytes, but on this system it can have at most %d (choose a directory "+
		"with a shorter path)", len(path), maxPath)
}

// shorten returns the error of checkPath: this system has no other path to the same file.
func shorten(path string) (short string, done func(), err error) { return "", nil, checkPath(path) }

// credentials returns the uid and the pid of a unix socket's peer (unix(4), LOCAL_PEERCRED).
func credentials(fd int) (uid uint32, pid int, err error) {
	peer, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	if err != nil {
		return 0, 0, err
	}
	pid, err = unix.GetsockoptInt(fd, unix.SOL_LOCAL, unix.LOCAL_PEERPID)
	return peer.Uid, pid, err
}
