package integration

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMemoryIsLocked checks that a gateway locks its memory if its limit allows that, as
// docs/kmsgate.service does, so that none of it is swapped out. Otherwise, the gateway runs with
// unlocked memory.
func TestMemoryIsLocked(t *testing.T) {
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &before); err != nil {
		t.Fatal(err)
	}
	// The gateway inherits the limit.
	err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	allowed := err == nil || before.Cur == unix.RLIM_INFINITY
	if err != nil && !errors.Is(err, unix.EPERM) {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &before); allowed && err != nil {
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
		t.Errorf("got %d KiB of locked memory, but locking is allowed: %v", locked, allowed)
	}
}
