package limit

import (
	"math"
	"os"
	"path"
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
	for _, file := range limitFiles() {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err == nil && n > 0 { // or "max"
			limit = min(limit, n)
		}
	}
	return min(limit, machineMemory())
}

// limitFiles returns the files that can hold a limit of this process's cgroups: those of version 1 and of
// version 2, and of the groups around them.
func limitFiles() []string {
	files := []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return files
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) < 3 {
			continue
		}
		for group := path.Clean("/" + fields[2]); group != "/"; group = path.Dir(group) {
			switch fields[1] {
			case "":
				files = append(files, path.Join("/sys/fs/cgroup", group, "memory.max"))
			case "memory":
				files = append(files, path.Join("/sys/fs/cgroup/memory", group, "memory.limit_in_bytes"))
			}
		}
	}
	return files
}
