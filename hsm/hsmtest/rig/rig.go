// Package rig sets up tokens for tests beside SoftHSM alone, and a module that
// fails when it is told to. It links no C: the modules are for the test, or for a
// gateway that the test starts, to load.
//
// What it guarantees: a token is a new one of the test's own, and what the test
// did not make is not touched. What was started has ended when the test has. In CI
// nothing is skipped.
//
//   - [P11Kit]: SoftHSM in another process, which can be stopped and killed. No AES.
//   - [OpenCryptoki]: the soft token of opencryptoki, which has RSA only.
//   - [NewFaults]: any module, with faults injected between it and its user.
//
// The Debian packages are installed by `make setup-test`.
package rig

import (
	"path/filepath"
	"testing"
	"time"
)

// patience is how long anything may take before the test fails.
const patience = 20 * time.Second

// poll waits until holds does.
func poll(t testing.TB, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

// library finds a file below the directory of libraries, whose name holds the
// machine's architecture.
func library(t testing.TB, path string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join("/usr/lib", "*", path))
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Fatalf("there is no %s below /usr/lib: `make setup-test` installs it", path)
	}
	return found[0]
}
