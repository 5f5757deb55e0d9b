package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"kmsgate": func() { os.Exit(run()) }, "setpin": setPIN})
}

// TestScripts runs the command line as the scripts in testdata have it.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", Setup: func(e *testscript.Env) error {
		// The race detector would wait a second at the end of each command.
		e.Setenv("GORACE", "atexit_sleep_ms=0")
		return nil
	}})
}
