package limit

import (
	"os"
	"runtime/debug"

	"github.com/kmsgate/kmsgate/internal/memlimit"
)

// Memory returns how many bytes of memory this process may use: the least of GOMEMLIMIT, the limit of
// its cgroup and the machine's memory.
func Memory() uint64 {
	limit := machineMemory()
	if set := debug.SetMemoryLimit(-1); set > 0 {
		limit = min(limit, uint64(set))
	}
	if group, ok := memlimit.Cgroup(os.DirFS("/")); ok {
		limit = min(limit, group)
	}
	return limit
}
