package bench_test

import (
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/bench"
)

// usage returns the processor time of this process from another account of the kernel, exact to 2 µs.
func usage(t *testing.T) time.Duration {
	t.Helper()
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		t.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// TestProcessorTime compares the kernel's accounts of this process.
func TestProcessorTime(t *testing.T) {
	for i := range 1000 {
		before := usage(t)
		self, err := bench.ProcessorTime(0)
		byPID, errPID := bench.ProcessorTime(os.Getpid())
		after := usage(t)
		if err != nil || errPID != nil {
			t.Fatal(err, errPID)
		}
		if self < before || byPID < self || byPID > after+2*time.Microsecond {
			t.Fatalf("round %d: got %v and, by the process's number, %v, want both between %v and %v in this order", i, self, byPID, before, after)
		}
	}
}

// TestProcessorTimeOfAnother reads the account of another process, and compares it with the one that
// the kernel reports when the process has ended.
func TestProcessorTimeOfAnother(t *testing.T) {
	cat := exec.Command("cat")
	input, err := cat.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cat.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cat.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(input, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil { // it runs
		t.Fatal(err)
	}
	got, err := bench.ProcessorTime(cat.Process.Pid)
	if err != nil {
		t.Error(err)
	}
	input.Close()
	if err := cat.Wait(); err != nil {
		t.Fatal(err)
	}
	if all := cat.ProcessState.UserTime() + cat.ProcessState.SystemTime(); got <= 0 || got > all+2*time.Microsecond {
		t.Errorf("got %v, want more than 0 and at most the %v that it has used in all", got, all)
	}
	if got, err := bench.ProcessorTime(cat.Process.Pid); err == nil {
		t.Errorf("of a process that has ended: got %v, want an error", got)
	}
}
