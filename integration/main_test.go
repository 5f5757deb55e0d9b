// Package integration tests the kmsgate binary as a whole: official SDKs call it over its real wire
// protocols, and openssl verifies its signatures.
package integration

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/kmsgate/kmsgate/integration/devgateway"
	"github.com/kmsgate/kmsgate/integration/syscalls"
)

var (
	binary string // the path of kmsgate, built with the race detector unless -plain is set
	plain  = flag.Bool("plain", false, "build kmsgate without the race detector, to measure figures")
)

func TestMain(m *testing.M) {
	syscalls.Main()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Getenv(crashDir) != "" || os.Getenv(secondOpinion) != "" {
		return m.Run() // a child process of a test, which needs no binary
	}
	dir, err := os.MkdirTemp("", "kmsgate-integration-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "kmsgate")
	flag.Parse()
	// The race detector excludes the Makefile's flags. TestVendored builds with them.
	build := exec.Command("go", "build", "-race", "-o", binary, "./cmd/kmsgate")
	build.Dir = ".."
	if *plain {
		build = buildPlain(binary)
	}
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building kmsgate: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// buildPlain returns the command that builds kmsgate at a path as the Makefile does.
func buildPlain(path string) *exec.Cmd {
	build := exec.Command("make", "-s", "bin/kmsgate", "KMSGATE="+path)
	build.Dir = ".."
	return build
}

// start runs a dev gateway on dir until the test ends.
func start(t *testing.T, dir string, args ...string) *devgateway.Gateway {
	t.Helper()
	g, err := devgateway.Start(t.Context(), binary, dir, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = g.Kill() // it may have exited already
		if t.Failed() {
			t.Logf("kmsgate dev printed:\n%s", g.Output())
		}
	})
	return g
}
