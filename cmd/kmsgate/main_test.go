package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"kmsgate": func() { os.Exit(run()) }})
}

// TestScripts runs the command line as the scripts in testdata have it.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", Setup: func(e *testscript.Env) error {
		// The race detector would wait a second at the end of each command.
		e.Setenv("GORACE", "atexit_sleep_ms=0")
		return nil
	}})
}

func TestShellQuote(t *testing.T) {
	for in, want := range map[string]string{
		"127.0.0.1:8443":      "127.0.0.1:8443",
		"[::1]:8443":          "[::1]:8443",
		"":                    "''",
		"a b":                 "'a b'",
		"$(reboot)":           "'$(reboot)'",
		"it's":                `'it'\''s'`,
		"`x`;y":               "'`x`;y'",
		"/tmp/dir with/中.pem": "'/tmp/dir with/中.pem'",
	} {
		if got := shellQuote(in); got != want {
			t.Errorf("shellQuote(%q) = %s, want %s", in, got, want)
		}
	}
}
