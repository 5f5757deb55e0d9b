package logsink_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/internal/logsink"
)

// A file is a file whose reader can stall or go away.
type file struct {
	mu    sync.Mutex // guards what follows
	wait  sync.Cond
	stall bool
	err   error // of every write
	room  int   // bytes that a write takes before it returns err
	text  bytes.Buffer
}

func newFile() *file {
	f := new(file)
	f.wait.L = &f.mu
	return f
}

func (f *file) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.stall {
		f.wait.Wait()
	}
	if f.err != nil {
		n, _ := f.text.Write(p[:min(f.room, len(p))])
		return n, f.err
	}
	return f.text.Write(p)
}

func (f *file) set(stall bool, err error, room int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stall, f.err, f.room = stall, err, room
	f.wait.Broadcast()
}

func (f *file) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.text.String()
}

func report(n uint64) []byte { return fmt.Appendf(nil, "%d dropped\n", n) }

func write(t *testing.T, s *logsink.Sink, line string) {
	t.Helper()
	if n, err := s.Write([]byte(line)); n != len(line) || err != nil {
		t.Fatalf("Write: got %d, %v, want %d, nil", n, err, len(line))
	}
}

// TestWrite tests that lines are written in their order, and all of them before Close returns.
func TestWrite(t *testing.T) {
	f := newFile()
	s := logsink.New(f, report)
	var want strings.Builder
	for i := range 1000 {
		line := fmt.Sprintln("line", i)
		want.WriteString(line)
		write(t, s, line)
	}
	s.Close(time.Minute)
	if got := f.String(); got != want.String() {
		t.Errorf("got %d bytes, want the %d bytes of all lines", len(got), want.Len())
	}
	write(t, s, "late\n")
	if got := f.String(); strings.Contains(got, "late") || s.Dropped() != 1 {
		t.Errorf("a line after Close: got %d lines dropped, want 1", s.Dropped())
	}
	(*logsink.Sink)(nil).Close(time.Minute)
}

// TestStalledReader tests that no Write waits for a reader that stalls, that a bounded number of
// bytes waits, and that the dropped lines are reported in their place.
func TestStalledReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFile()
		f.set(true, nil, 0)
		s := logsink.New(f, report)
		line := strings.Repeat("x", 1023) + "\n"
		const lines = 3000
		for range lines {
			write(t, s, line)
		}
		dropped := s.Dropped()
		if kept := lines - dropped; kept == 0 || kept*1024 > 1<<20 {
			t.Errorf("got %d lines kept, want at most 1 MiB of them", kept)
		}
		f.set(false, nil, 0)
		synctest.Wait()
		want := strings.Repeat(line, int(lines-dropped)) + fmt.Sprintf("%d dropped\n", dropped)
		if got := f.String(); got != want {
			t.Errorf("got %d bytes that end in %q, want %d that end in %q", len(got), tail(got), len(want), tail(want))
		}
		write(t, s, "again\n")
		s.Close(time.Minute)
		if got := f.String(); got != want+"again\n" {
			t.Errorf("a line after the report: got a log that ends in %q", tail(got))
		}
	})
}

func tail(s string) string { return s[max(0, len(s)-60):] }

// TestReaderGone tests that lines that the file refuses are counted, and reported once it takes
// lines again. A line that was cut short must not spoil the next one.
func TestReaderGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFile()
		s := logsink.New(f, report)
		f.set(false, errors.New("no space left"), 3)
		for range 5 {
			write(t, s, "lost\n")
			synctest.Wait()
		}
		if got := s.Dropped(); got != 5 {
			t.Errorf("got %d lines dropped, want 5", got)
		}
		f.set(false, nil, 0)
		write(t, s, "back\n")
		s.Close(time.Minute)
		if got := f.String(); !strings.HasSuffix(got, "\n5 dropped\nback\n") {
			t.Errorf("got the log %q, want the number of dropped lines, and then the next line", got)
		}
	})
}

// TestCloseStalled tests that Close and Within wait no longer than their limit.
func TestCloseStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFile()
		f.set(true, nil, 0)
		s := logsink.New(f, report)
		write(t, s, "last\n")
		start := time.Now()
		s.Close(time.Second)
		if took := time.Since(start); took != time.Second {
			t.Errorf("Close took %v, want 1 s", took)
		}
		start = time.Now()
		logsink.Within(2*time.Second, func() { _, _ = f.Write([]byte("more\n")) })
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("Within took %v, want 2 s", took)
		}
		f.set(false, nil, 0) // lets the goroutines end
		synctest.Wait()
		if got := f.String(); !strings.Contains(got, "last\n") || !strings.Contains(got, "more\n") {
			t.Errorf("got the log %q, want both lines", got)
		}
		start = time.Now()
		logsink.Within(time.Minute, func() {})
		if took := time.Since(start); took != 0 {
			t.Errorf("Within took %v for a function that returns at once", took)
		}
	})
}
