package limit

import "golang.org/x/sys/unix"

func machineMemory() uint64 {
	size, err := unix.SysctlUint64("hw.memsize")
	if err != nil {
		return 1 << 30
	}
	return size
}
