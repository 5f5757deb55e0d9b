package signals_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/internal/signals"
)

// timeout is more than any signal takes on a busy machine.
const timeout = time.Minute

// child is an environment variable. It names what a child process of these tests must do.
const child = "KMSGATE_SIGNALS_TEST"

func TestMain(m *testing.M) {
	switch os.Getenv(child) {
	case "":
		os.Exit(m.Run())
	case "two signals":
		twoSignals()
	case "write and survive":
		signals.SurviveBrokenPipes()
		fallthrough
	case "write":
		if _, err := os.Stdout.WriteString("nobody reads this\n"); !errors.Is(err, unix.EPIPE) {
			os.Exit(4)
		}
		os.Exit(3)
	}
}

// twoSignals sends this process a signal that it waits for, and then others until it ends.
func twoSignals() {
	ctx, stop := signals.Context(context.Background())
	defer stop()
	send(unix.SIGTERM)
	<-ctx.Done()
	for start := time.Now(); time.Since(start) < timeout; time.Sleep(time.Millisecond) {
		send(unix.SIGTERM)
	}
}

func send(s unix.Signal) {
	if err := unix.Kill(os.Getpid(), s); err != nil {
		panic(err)
	}
}

// run runs this program as the child with that name, and returns how it ended.
func run(t *testing.T, name string, stdout *os.File) syscall.WaitStatus {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), child+"="+name, "GORACE=atexit_sleep_ms=0")
	cmd.Stdout = stdout
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return cmd.ProcessState.Sys().(syscall.WaitStatus)
}

// TestContext tests that the first signal ends the context with its name, and the second the
// process.
func TestContext(t *testing.T) {
	ctx, stop := signals.Context(t.Context())
	defer stop()
	derived, cancel := context.WithCancel(ctx)
	defer cancel()
	if name := signals.EndedBy(derived); name != "" {
		t.Errorf("before a signal: ended by %q", name)
	}
	send(unix.SIGTERM)
	select {
	case <-derived.Done():
	case <-time.After(timeout):
		t.Fatal("SIGTERM did not end the context")
	}
	if name := signals.EndedBy(derived); name != "SIGTERM" || !errors.Is(context.Cause(ctx), context.Canceled) {
		t.Errorf("ended by %q: %v, want SIGTERM, and an error that matches context.Canceled", name, context.Cause(ctx))
	}
	other, stop := signals.Context(t.Context())
	stop()
	if <-other.Done(); signals.EndedBy(other) != "" {
		t.Errorf("after stop: ended by %q", signals.EndedBy(other))
	}
	if status := run(t, "two signals", nil); !status.Signaled() || status.Signal() != unix.SIGTERM {
		t.Errorf("after a second SIGTERM: got status %v, want the end by SIGTERM", status)
	}
}

// TestHangups tests that SIGHUP does not end the process.
func TestHangups(t *testing.T) {
	hangups := signals.Hangups()
	for range 2 {
		send(unix.SIGHUP)
		select {
		case <-hangups:
		case <-time.After(timeout):
			t.Fatal("SIGHUP was not received")
		}
	}
}

// TestSurviveBrokenPipes writes to a standard output that nobody reads. Without
// SurviveBrokenPipes, as in kmsgate key list, that ends the process.
func TestSurviveBrokenPipes(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if status := run(t, "write", w); !status.Signaled() || status.Signal() != unix.SIGPIPE {
		t.Errorf("without SurviveBrokenPipes: got status %v, want the end by SIGPIPE", status)
	}
	if status := run(t, "write and survive", w); status.ExitStatus() != 3 {
		t.Errorf("with SurviveBrokenPipes: got status %v, want exit status 3", status)
	}
}
