package auditlog_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/auditlog"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/auditlog/auditlogtest"
)

// lastLines returns the numbers of the last n lines of a log.
func lastLines(t *testing.T, path string, n int) string {
	t.Helper()
	lines, tail, err := auditlog.OpenTail(path, n)
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	var b bytes.Buffer
	out := auditlog.NewWriter(&b, auditlog.JSON)
	for _, line := range lines {
		if err := out.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Flush(); err != nil {
		t.Fatal(err)
	}
	return found(t, b.String())
}

// TestOpenTail tests that OpenTail returns the last lines, across several files.
func TestOpenTail(t *testing.T) {
	log := auditlogtest.New(t)
	log.Requests(3)
	log.Rotate(1)
	log.Requests(3)
	log.Rotate(4)
	log.Requests(2)
	log.Write(`{"Seq":9,"Prev":"`) // being written
	for n, want := range map[int]string{0: "", 1: "8", 2: "7 8", 3: "6 7 8", 6: "3 4 5 6 7 8", 100: "1 2 3 4 5 6 7 8"} {
		if got := lastLines(t, log.Path, n); got != want {
			t.Errorf("the last %d lines: got %s, want %s", n, got, want)
		}
	}
	if _, _, err := auditlog.OpenTail(log.Path+".none", 1); err == nil ||
		!strings.Contains(err.Error(), "no audit log at") {
		t.Errorf("OpenTail of a missing log: got %v, want an error", err)
	}
}

// A follower follows a log. It reads the log only when the test wakes it.
type follower struct {
	t     *testing.T
	out   bytes.Buffer // the follower writes it only between two wakes
	wake  chan time.Time
	stop  context.CancelFunc
	ended chan error
}

func follow(t *testing.T, path string) *follower {
	t.Helper()
	_, tail, err := auditlog.OpenTail(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	f := &follower{t: t, wake: make(chan time.Time), stop: stop, ended: make(chan error, 1)}
	go func() {
		err := tail.Follow(ctx, auditlog.NewWriter(&f.out, auditlog.JSON), f.wake)
		f.ended <- errors.Join(err, tail.Close())
	}()
	return f
}

// expect wakes the follower, and compares the lines that it has written since its start.
func (f *follower) expect(want string) {
	f.t.Helper()
	for range 2 { // the follower accepts the second wake once it has handled the first
		select {
		case f.wake <- time.Time{}:
		case err := <-f.ended:
			f.t.Fatalf("Follow ended: %v", err)
		}
	}
	if got := found(f.t, f.out.String()); got != want {
		f.t.Fatalf("Follow: got the lines %s, want %s", got, want)
	}
}

// TestFollow follows a log across rotations, two of them between two wakes, and while no file
// exists at the log's path.
func TestFollow(t *testing.T) {
	log := auditlogtest.New(t)
	log.Requests(2)
	f := follow(t, log.Path)
	f.expect("")
	log.Requests(1)
	f.expect("3")
	log.Requests(1)
	log.Rotate(1)
	f.expect("3 4") // no file exists at the path now
	log.Requests(1)
	f.expect("3 4 5")
	log.Requests(1)
	log.Rotate(5)
	log.Requests(1)
	log.Rotate(7)
	log.Requests(1)
	f.expect("3 4 5 6 7 8")
	log.Write(`{"Seq":9,`)
	f.expect("3 4 5 6 7 8")
	log.Write(`"Prev":"","Time":"2026-11-22T00:00:00Z"}` + "\n")
	f.expect("3 4 5 6 7 8 9")
	f.stop()
	if err := <-f.ended; err != nil {
		t.Errorf("Follow: %v", err)
	}
}

// TestFollowReplaced tests that Follow continues with a file that replaced the log's.
func TestFollowReplaced(t *testing.T) {
	log := auditlogtest.New(t)
	log.Requests(2)
	f := follow(t, log.Path)
	f.expect("")
	if err := os.Remove(log.Path); err != nil {
		t.Fatal(err)
	}
	f.expect("")
	log.Requests(1)
	f.expect("3")
	f.stop()
	if err := <-f.ended; err != nil {
		t.Errorf("Follow: %v", err)
	}
}

// TestFollowCompressed follows a log whose files are rotated and compressed between two wakes, also the
// one that is being followed.
func TestFollowCompressed(t *testing.T) {
	log := auditlogtest.New(t)
	log.Requests(2)
	f := follow(t, log.Path)
	f.expect("")
	log.Requests(2)
	log.Compress(log.Rotate(1))
	log.Requests(2)
	log.Compress(log.Rotate(5))
	log.Requests(2)
	log.Rotate(7)
	log.Requests(1)
	f.expect("3 4 5 6 7 8 9")
	log.Compress(log.Rotate(9))
	f.expect("3 4 5 6 7 8 9") // no file exists at the path now
	log.Requests(1)
	f.expect("3 4 5 6 7 8 9 10")
	f.stop()
	if err := <-f.ended; err != nil {
		t.Errorf("Follow: %v", err)
	}
}

// TestFollowGap removes a file that follows the one that is being followed.
func TestFollowGap(t *testing.T) {
	log := auditlogtest.New(t)
	log.Requests(2)
	f := follow(t, log.Path)
	f.expect("")
	log.Rotate(1)
	log.Requests(2)
	remove(t, log.Rotate(3))
	log.Requests(1)
	var err error
	select {
	case f.wake <- time.Time{}:
		err = <-f.ended
	case err = <-f.ended: // it was still reading
	}
	if err == nil || !strings.Contains(err.Error(), "lines 3 to 4 are missing") {
		t.Errorf("Follow: got %v, want \"lines 3 to 4 are missing\"", err)
	}
}

func TestFollowFails(t *testing.T) {
	log := auditlogtest.New(t)
	log.Requests(2)
	_, tail, err := auditlog.OpenTail(log.Path, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	log.Requests(1)
	if err := tail.Follow(t.Context(), auditlog.NewWriter(failing{}, auditlog.JSON), nil); !errors.Is(err,
		unix.ENOSPC) {
		t.Errorf("Follow: got %v, want ENOSPC", err)
	}
}
