package limit

import "golang.org/x/sys/unix"

func machineMemory() uint64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 1 << 30
	}
	return uint64(info.Totalram) * uint64(info.Unit)
}
