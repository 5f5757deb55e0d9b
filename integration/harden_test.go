package integration

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMemoryIsLocked: where it is allowed, as docs/kmsgate.service allows it,
// nothing of a gateway's memory goes to swap. Where it is not it runs without.
func TestMemoryIsLocked(t *testing.T) {
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &was); err != nil {
		t.Fatal(err)
	}
	// The gateway inherits it.
	err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	allowed := err == nil || was.Cur == unix.RLIM_INFINITY
	if err != nil && !errors.Is(err, unix.EPERM) {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &was); allowed && err != nil {
			t.Error(err)
		}
	})
	g := start(t, t.TempDir()+"/gateway")
	signAll(t, g)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	locked := -1
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmLck:"); ok {
			if _, err := fmt.Sscan(rest, &locked); err != nil {
				t.Fatal(err)
			}
		}
	}
	if isLocked := locked >= 1<<10; isLocked != allowed {
		t.Errorf("%d KiB of memory are locked; it is allowed: %v", locked, allowed)
	}
}
