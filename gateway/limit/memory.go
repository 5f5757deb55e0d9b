package limit

import (
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

// Memory returns how many bytes of memory this process may use: the least of GOMEMLIMIT, the limit of
// its cgroup and the machine's memory.
func Memory() uint64 {
	limit := uint64(math.MaxInt64)
	if set := debug.SetMemoryLimit(-1); set > 0 {
		limit = uint64(set)
	}
	for _, path := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err == nil && n > 0 { // or "max"
			limit = min(limit, n)
		}
	}
	return min(limit, machineMemory())
}
