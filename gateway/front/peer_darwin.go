package front

import "golang.org/x/sys/unix"

// credentials returns the uid and the pid of a unix socket's peer (unix(4), LOCAL_PEERCRED).
func credentials(fd int) (uid uint32, pid int, err error) {
	peer, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	if err != nil {
		return 0, 0, err
	}
	pid, err = unix.GetsockoptInt(fd, unix.SOL_LOCAL, unix.LOCAL_PEERPID)
	return peer.Uid, pid, err
}
