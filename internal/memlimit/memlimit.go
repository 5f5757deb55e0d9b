// Package memlimit keeps this process below the memory limit of its cgroup, and finds out whether
// its memory can be swapped out. It reads what Linux says below /proc and /sys. Where nothing is said,
// there is neither a limit nor swap.
//
// The functions take the root directory, which is os.DirFS("/") except in tests.
package memlimit

import (
	"io/fs"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// Set makes the garbage collector work harder when this process nears the limit of its cgroup: it
// sets Go's memory limit to 90 % of that limit. The rest is for what Go does not count, such as
// the memory of a PKCS#11 module. Set does not do this if the environment has GOMEMLIMIT, or if there
// is no limit.
//
// Set also makes the garbage collector work less while the heap is small: see reserve.
func Set(root fs.FS) {
	if limit, ok := Cgroup(root); ok && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(int64(limit / 10 * 9))
	}
	reserve = make([]byte, min(reserveSize, debug.SetMemoryLimit(-1)/16))
}

// reserve is memory that nothing uses. The garbage collector begins when the heap has doubled, and a gateway's
// heap is a few MB, so it would begin every few milliseconds. It counts the reserve as a part of the heap,
// but the system provides no memory for it, since nothing touches it. This takes 14 % off the processor time of an
// EC_P256 signature with 32 callers, 15 % with 8. The heap can grow by that much more before it is collected.
//
//lint:ignore U1000 only the garbage collector needs it
var reserve []byte

const reserveSize int64 = 32 << 20 // bytes

// unlimited is what version 1 of cgroups has, rounded to pages, where there is no limit.
const unlimited = 1 << 62

// Cgroup returns the least of the memory limits, in bytes, of this process's cgroups and of the
// groups around them. ok is false if there is no limit.
func Cgroup(root fs.FS) (limit uint64, ok bool) {
	limit = unlimited
	files := settings(root, "", "sys/fs/cgroup", "memory.max")
	for _, file := range append(files, settings(root, "memory", "sys/fs/cgroup/memory", "memory.limit_in_bytes")...) {
		n, err := strconv.ParseUint(read(root, file), 10, 64)
		if err == nil && n > 0 { // or "max"
			limit = min(limit, n)
		}
	}
	return limit, limit < unlimited
}

// Swappable reports whether this machine has swap, and may swap this process out. It does not see
// the settings of version 1 of cgroups.
func Swappable(root fs.FS) bool {
	if len(strings.Split(read(root, "proc/swaps"), "\n")) < 2 { // only the table's head
		return false
	}
	for _, file := range settings(root, "", "sys/fs/cgroup", "memory.swap.max") {
		if read(root, file) == "0" {
			return false
		}
	}
	return true
}

// settings returns the paths of a setting for this process's cgroup and for the groups around it.
// controller selects the hierarchy, which is mounted at dir; it is empty for version 2 of cgroups.
// In a container, the process's own group can be at dir itself.
func settings(root fs.FS, controller, dir, name string) []string {
	files := []string{path.Join(dir, name)}
	for line := range strings.Lines(read(root, "proc/self/cgroup")) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) < 3 || fields[1] != controller {
			continue
		}
		for group := path.Clean("/" + fields[2]); group != "/"; group = path.Dir(group) {
			files = append(files, path.Join(dir, group, name))
		}
	}
	return files
}

// read returns the text of a file without space around it. A file that cannot be read has none.
func read(root fs.FS, file string) string {
	text, err := fs.ReadFile(root, file)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
