package integration

import (
	"bytes"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/integration/devgateway"
)

// TestStartAgain stops a gateway with each of three signals and starts it again.
func TestStartAgain(t *testing.T) {
	dir := t.TempDir() + "/gateway"
	g := start(t, dir)
	signAll(t, g)
	first := g.Env
	for name, stop := range map[string]func(*devgateway.Gateway) error{
		"SIGTERM": (*devgateway.Gateway).Stop,
		"SIGINT":  (*devgateway.Gateway).Interrupt,
		"SIGKILL": (*devgateway.Gateway).Kill,
	} {
		if err := stop(g); err != nil {
			t.Errorf("%s: %v\n%s", name, err, g.Output())
		}
		if _, err := os.Stat(dir + "/env"); name != "SIGKILL" && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("DIR/env after %s: got %v, want no file", name, err)
		}
		g = start(t, dir)
		checkSameEnv(t, first, g.Env)
		signAll(t, g)
	}
}

// TestTemporary runs `kmsgate dev` without --dir, which must leave no files.
func TestTemporary(t *testing.T) {
	temp := t.TempDir()
	cmd := exec.Command(binary, "dev", "--listen", "127.0.0.1:0")
	cmd.Env = append(devgateway.Environment(), "TMPDIR="+temp)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	banner := make([]byte, 16) // which the gateway prints as soon as it serves
	if _, err := out.Read(banner); err != nil {
		t.Fatal(err)
	}
	dirs, err := filepath.Glob(temp + "/kmsgate-dev-*/env")
	if err != nil || len(dirs) != 1 {
		t.Errorf("got directories %v, %v while the gateway runs, want one", dirs, err)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) != 0 {
		t.Errorf("got files %v, %v after the gateway exited, want none", left, err)
	}
}

// TestCannotStart checks that a gateway that cannot start prints the reason in one line, exits with
// status 1, and creates and changes no files.
func TestCannotStart(t *testing.T) {
	g := start(t, t.TempDir()+"/gateway")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, tc := range map[string]struct {
		dir  string
		args []string
		env  string
		want string
	}{
		"port taken": {t.TempDir() + "/new", []string{"--listen", taken.Addr().String()}, "", "--listen"},
		"no SoftHSM": {t.TempDir() + "/new", []string{"--listen", "127.0.0.1:0"},
			"SOFTHSM2_MODULE=/nonexistent.so", "apt-get install softhsm2"},
		"directory taken": {g.Dir, []string{"--listen", "127.0.0.1:0"}, "", "--dir"},
		"not our address": {t.TempDir() + "/new", []string{"--listen", "203.0.113.7:8443"}, "", "203.0.113.7"},
	} {
		cmd := exec.Command(binary, append([]string{"dev", "--dir", tc.dir}, tc.args...)...)
		cmd.Env = append(devgateway.Environment(), tc.env)
		out, err := cmd.CombinedOutput()
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("%s: got %v, want exit status 1", name, err)
		}
		if text := string(out); strings.Count(text, "\n") != 1 || !strings.Contains(text, tc.want) {
			t.Errorf("%s: got output %q, want one line with %q", name, text, tc.want)
		}
		if _, err := os.Stat(tc.dir); tc.dir != g.Dir && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: got the directory %s, want none", name, tc.dir)
		}
	}
	signAll(t, g) // the gateway whose directory was taken is not disturbed
	if _, err := os.Stat(g.Dir + "/env"); err != nil {
		t.Error(err)
	}
}

// TestStartCutOff kills a gateway during its first start, after a longer delay each time, and
// interrupts a gateway during a later start.
func TestStartCutOff(t *testing.T) {
	for _, signal := range []os.Signal{os.Kill, os.Interrupt} {
		t.Run(signal.String(), func(t *testing.T) { testStartCutOff(t, signal) })
	}
}

func testStartCutOff(t *testing.T, signal os.Signal) {
	dir := t.TempDir() + "/gateway"
	if signal == os.Interrupt {
		start(t, dir).Stop()
	}
	for delay := 5 * time.Millisecond; ; delay += delay / 4 {
		cmd := exec.Command(binary, "dev", "--dir", dir, "--listen", "127.0.0.1:0")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var exited atomic.Bool
		// A second interrupt would kill a process that is stopping after the first.
		var once sync.Once
		cutOff := func() { once.Do(func() { _ = cmd.Process.Signal(signal) }) } // it may have exited
		timer := time.AfterFunc(delay, cutOff)
		go func() {
			err := cmd.Wait()
			exit, ok := errors.AsType[*exec.ExitError](err)
			if err != nil && !(ok && exit.Sys().(syscall.WaitStatus).Signaled()) {
				t.Errorf("kmsgate dev, stopped after %v: %v\n%s", delay, err, stderr.String())
			}
			exited.Store(true)
		}()
		ready := false
		waitFor(t, "the gateway to be ready or to exit", func() bool {
			_, err := os.Stat(dir + "/env")
			ready = err == nil
			return ready || exited.Load()
		})
		timer.Stop()
		cutOff()
		waitFor(t, "the process to exit", exited.Load)
		if ready {
			break
		}
	}
	g := start(t, dir)
	signAll(t, g)
	client, err := devgateway.SDK(g.Env)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := countKeys(client); err != nil || n != len(devgateway.KeySpecs) {
		t.Errorf("got %d keys, %v, want one of each KeySpec", n, err)
	}
}
