// Package integration tests the whole system: the built binary, its wire
// protocol as official SDKs speak it, and openssl as the judge.
package integration

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/kmsgate/kmsgate/integration/devgateway"
)

// binary is kmsgate, built with the race detector unless the flag says otherwise.
var (
	binary string
	plain  = flag.Bool("plain", false, "build kmsgate without the race detector, for figures")
)

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Getenv(crashDir) != "" {
		return m.Run() // a child, which needs no binary
	}
	dir, err := os.MkdirTemp("", "kmsgate-integration-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "kmsgate")
	flag.Parse()
	build := exec.Command("go", "build", fmt.Sprintf("-race=%v", !*plain), "-o", binary, "./cmd/kmsgate")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building kmsgate: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// start runs a dev gateway on dir until the test ends.
func start(t *testing.T, dir string, args ...string) *devgateway.Gateway {
	t.Helper()
	g, err := devgateway.Start(t.Context(), binary, dir, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = g.Kill() // it may have ended already
		if t.Failed() {
			t.Logf("kmsgate dev printed:\n%s", g.Output())
		}
	})
	return g
}
