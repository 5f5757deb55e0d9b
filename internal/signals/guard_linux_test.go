package signals

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestGuard takes the handler of SIGTERM as a PKCS#11 module does. SIGTERM must reach the process
// again, and only the first theft must be reported.
func TestGuard(t *testing.T) {
	const timeout = time.Minute
	ctx, stop := Context(t.Context())
	defer stop()
	restored := make(chan string, 10)
	Guard(t.Context(), func(name string) { restored <- name })
	ours, err := currentAction(unix.SIGTERM)
	if err != nil {
		t.Fatal(err)
	}
	const ignore = 1 // SIG_IGN
	take := func() {
		t.Helper()
		if err := setAction(unix.SIGTERM, action{ignore}); err != nil {
			t.Fatal(err)
		}
	}
	take()
	select {
	case name := <-restored:
		if name != "SIGTERM" {
			t.Errorf("restored %s, want SIGTERM", name)
		}
	case <-time.After(timeout):
		t.Fatal("nothing was restored")
	}
	if now, err := currentAction(unix.SIGTERM); err != nil || now != ours {
		t.Errorf("got another handler than before, %v", err)
	}
	take()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for start := time.Now(); ; <-poll.C {
		if now, err := currentAction(unix.SIGTERM); err == nil && now == ours {
			break
		}
		if time.Since(start) > timeout {
			t.Fatal("the handler was not restored a second time")
		}
	}
	if err := unix.Kill(os.Getpid(), unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ctx.Done():
	case <-time.After(timeout):
		t.Fatal("SIGTERM did not end the context")
	}
	if name := EndedBy(ctx); name != "SIGTERM" || len(restored) != 0 {
		t.Errorf("ended by %q, want SIGTERM; %d further reports, want none", name, len(restored))
	}
}
