// Package rig sets up tokens other than plain SoftHSM for tests, and a module that injects
// faults on request. It links no C: the test, or a gateway that the test starts, loads the
// modules.
//
// What it guarantees: every test gets a new token, and rig touches nothing that the test did
// not make. Everything that rig starts has ended when the test ends. Tests never skip in CI.
//
//   - [P11Kit]: SoftHSM in another process, which the test can stop and kill. It has no AES.
//   - [OpenCryptoki]: the soft token of opencryptoki, which supports RSA only.
//   - [NewFaults]: any module, with faults injected between it and its user.
//
// `make setup-test` installs the Debian packages that rig needs.
package rig

import (
	"path/filepath"
	"testing"
	"time"
)

// timeout is how long a single wait may take before the test fails.
const timeout = 20 * time.Second

// poll waits until holds returns true, or fails the test after timeout.
func poll(t testing.TB, description string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(timeout); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", timeout, description)
		}
	}
}

// library finds a file in the library directory, whose name contains the machine's
// architecture.
func library(t testing.TB, path string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join("/usr/lib", "*", path))
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Fatalf("/usr/lib/*/%s does not exist: run `make setup-test`", path)
	}
	return found[0]
}
