package front

import "golang.org/x/sys/unix"

// credentials returns the uid and the pid of a unix socket's peer (unix(7), SO_PEERCRED).
func credentials(fd int) (uid uint32, pid int, err error) {
	peer, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, 0, err
	}
	return peer.Uid, int(peer.Pid), nil
}
