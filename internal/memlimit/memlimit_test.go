package memlimit_test

import (
	"math"
	"runtime"
	"runtime/debug"
	"testing"
	"testing/fstest"

	"github.com/kmsgate/kmsgate/internal/memlimit"
)

// system returns a root directory with these files, given by alternating paths and texts.
func system(files ...string) fstest.MapFS {
	root := make(fstest.MapFS)
	for i := 0; i < len(files); i += 2 {
		root[files[i]] = &fstest.MapFile{Data: []byte(files[i+1])}
	}
	return root
}

// TestCgroup tests that the least limit of the process's groups counts, in both versions of cgroups,
// and that the limits of other groups do not.
func TestCgroup(t *testing.T) {
	for name, tc := range map[string]struct {
		root fstest.MapFS
		want uint64 // 0: no limit
	}{
		"no cgroups": {system(), 0},
		"version 2": {system("proc/self/cgroup", "0::/system.slice/kmsgate.service\n",
			"sys/fs/cgroup/system.slice/kmsgate.service/memory.max", "1000000\n"), 1_000_000},
		"version 2, a group around it": {system("proc/self/cgroup", "0::/system.slice/kmsgate.service\n",
			"sys/fs/cgroup/system.slice/memory.max", "500000\n",
			"sys/fs/cgroup/system.slice/kmsgate.service/memory.max", "1000000\n",
			"sys/fs/cgroup/system.slice/other.service/memory.max", "1\n"), 500_000},
		"version 2, no limit":                 {system("proc/self/cgroup", "0::/system.slice\n", "sys/fs/cgroup/system.slice/memory.max", "max\n"), 0},
		"version 2, container":                {system("proc/self/cgroup", "0::/\n", "sys/fs/cgroup/memory.max", "1000000\n"), 1_000_000},
		"version 2, outside of its namespace": {system("proc/self/cgroup", "0::/../../other\n", "sys/fs/cgroup/memory.max", "1000000\n"), 1_000_000},
		"version 1": {system("proc/self/cgroup", "5:memory:/docker/a\n4:cpu:/docker/b\n",
			"sys/fs/cgroup/memory/docker/a/memory.limit_in_bytes", "1000000\n",
			"sys/fs/cgroup/memory/docker/b/memory.limit_in_bytes", "1\n"), 1_000_000},
		"version 1, container": {system("proc/self/cgroup", "5:memory:/docker/a\n", "sys/fs/cgroup/memory/memory.limit_in_bytes", "1000000\n"), 1_000_000},
		"version 1, no limit":  {system("proc/self/cgroup", "5:memory:/a\n", "sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n"), 0},
		"both versions": {system("proc/self/cgroup", "5:memory:/a\n0::/b\n",
			"sys/fs/cgroup/memory/a/memory.limit_in_bytes", "2000000\n", "sys/fs/cgroup/b/memory.max", "1000000\n"), 1_000_000},
		"nonsense": {system("proc/self/cgroup", "nonsense\n\n0:\n", "sys/fs/cgroup/memory.max", "nonsense\n"), 0},
	} {
		got, ok := memlimit.Cgroup(tc.root)
		if ok != (tc.want != 0) || ok && got != tc.want {
			t.Errorf("%s: got %d, %v, want %d", name, got, ok, tc.want)
		}
	}
}

// TestSet tests that Go's memory limit becomes 90 % of the cgroup's, unless the environment has one.
func TestSet(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	const bytes = 64 << 30
	limited := system("proc/self/cgroup", "0::/a\n", "sys/fs/cgroup/a/memory.max", "68719476736\n")
	for name, tc := range map[string]struct {
		environment string
		root        fstest.MapFS
		want        int64
	}{
		"a limit":                         {"", limited, bytes / 10 * 9},
		"a limit and one in the variable": {"1GiB", limited, math.MaxInt64},
		"no limit":                        {"", system(), math.MaxInt64},
	} {
		t.Setenv("GOMEMLIMIT", tc.environment)
		debug.SetMemoryLimit(math.MaxInt64)
		memlimit.Set(tc.root)
		if got := debug.SetMemoryLimit(-1); got != tc.want {
			t.Errorf("%s: got a memory limit of %d bytes, want %d", name, got, tc.want)
		}
	}
}

// TestSmallHeap tests that the garbage collector leaves a small heap alone, unless there is little memory.
func TestSmallHeap(t *testing.T) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(-1))
	next := func(root fstest.MapFS) uint64 {
		memlimit.Set(root)
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.NextGC
	}
	if n := next(system()); n < 64<<20 {
		t.Errorf("the next collection is at a heap of %d bytes, want at least 64 MiB", n)
	}
	if n := next(system("sys/fs/cgroup/memory.max", "67108864")); n > 32<<20 {
		t.Errorf("with 64 MiB of memory: the next collection is at a heap of %d bytes, want at most 32 MiB", n)
	}
}

// TestSwappable tests that memory can be swapped out where there is swap, unless a group of the process
// forbids it.
func TestSwappable(t *testing.T) {
	const head = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
	const swaps = head + "/dev/sda2                               partition\t8388604\t\t0\t\t-2\n"
	const group = "0::/system.slice/kmsgate.service\n"
	for name, tc := range map[string]struct {
		root fstest.MapFS
		want bool
	}{
		"nothing known": {system(), false},
		"no swap":       {system("proc/swaps", head), false},
		"swap":          {system("proc/swaps", swaps), true},
		"swap, and a group that may use it": {system("proc/swaps", swaps, "proc/self/cgroup", group,
			"sys/fs/cgroup/system.slice/kmsgate.service/memory.swap.max", "max\n"), true},
		"swap, and a group that may not": {system("proc/swaps", swaps, "proc/self/cgroup", group,
			"sys/fs/cgroup/system.slice/kmsgate.service/memory.swap.max", "0\n"), false},
		"swap, and a group around it that may not": {system("proc/swaps", swaps, "proc/self/cgroup", group,
			"sys/fs/cgroup/system.slice/memory.swap.max", "0\n"), false},
		"swap, and another group that may not": {system("proc/swaps", swaps, "proc/self/cgroup", group,
			"sys/fs/cgroup/system.slice/other.service/memory.swap.max", "0\n"), true},
	} {
		if got := memlimit.Swappable(tc.root); got != tc.want {
			t.Errorf("%s: got %v, want %v", name, got, tc.want)
		}
	}
}
