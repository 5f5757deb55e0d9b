package unixsocket

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// maxName is how long the name of a socket can be if its path is longer than maxPath: shorten puts
// it behind the longest name of a descriptor.
const maxName = maxPath - len("/proc/self/fd/1073741823/")

func checkPath(path string) error {
	if name := filepath.Base(path); len(name) > maxName {
		return fmt.Errorf("the socket's name has %d bytes, but at this path it can have at most %d (choose a shorter name)",
			len(name), maxName)
	}
	return nil
}

// shorten returns another path to the same file, through a descriptor of its directory. It is valid
// until done is called.
func shorten(path string) (short string, done func(), err error) {
	dir, err := os.OpenFile(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)), func() { _ = dir.Close() }, nil
}

// credentials returns the uid and the pid of a unix socket's peer (unix(7), SO_PEERCRED).
func credentials(fd int) (uid uint32, pid int, err error) {
	peer, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, 0, err
	}
	return peer.Uid, int(peer.Pid), nil
}
