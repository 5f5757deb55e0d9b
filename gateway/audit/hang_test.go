package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

// A hangingFile waits with each flush while hang is held.
type hangingFile struct {
	*os.File
	hang chan struct{} // has room for one; a flush puts something in and takes it out
}

func (f hangingFile) Sync() error {
	f.hang <- struct{}{}
	defer func() { <-f.hang }()
	return f.File.Sync()
}

// openHanging opens a log whose flushes hang while hang is held, with a gateway's AppendTimeout.
func openHanging(t *testing.T) (l *audit.Log, path string, hang chan struct{}) {
	t.Helper()
	path, hang = t.TempDir()+"/audit.log", make(chan struct{}, 1)
	cfg := config(path)
	cfg.AppendTimeout = 0
	cfg.SetOpen(func(path string, flag int) (audit.TestFile, error) {
		f, err := os.OpenFile(path, flag, 0o600)
		return hangingFile{f, hang}, err
	})
	return openConfig(t, cfg), path, hang
}

// TestHangingFlush lets a flush hang. Callers are answered in time, and the log tells which lines were
// written although their callers had been refused.
func TestHangingFlush(t *testing.T) { synctest.Test(t, testHangingFlush) }

func testHangingFlush(t *testing.T) {
	l, path, hang := openHanging(t)
	appendLines(t, l, 1)
	synctest.Wait()
	hang <- struct{}{} // the disk hangs
	answers := make(map[string]chan error)
	unattended := make(chan error, 1)
	call := func(id string, f func(audit.Entry) error) {
		answers[id] = make(chan error, 1)
		go func() { answers[id] <- f(audit.Entry{RequestId: id}) }()
		synctest.Wait()
	}
	began := time.Now()
	call("first", l.Append)  // its flush hangs
	call("second", l.Append) // waits for that flush
	call("change", func(e audit.Entry) error {
		return l.AppendChange(e, func(err error) { unattended <- err })
	})
	for id, answer := range answers {
		if err := <-answer; !errors.Is(err, audit.ErrSlow) {
			t.Errorf("%s: got %v, want ErrSlow", id, err)
		}
	}
	if waited := time.Since(began); waited > 5*time.Second {
		t.Errorf("callers waited %v", waited)
	}
	time.Sleep(2 * time.Second) // the first checkpoint's caller leaves after 3.5 s, before the disk continues
	if l.Err() == nil || l.OldestWait() < 3*time.Second {
		t.Errorf("while the flush hangs: got %v, oldest line %v", l.Err(), l.OldestWait())
	}
	<-hang // the disk continues
	if err := <-unattended; err != nil {
		t.Errorf("the change: got %v, want nil", err)
	}
	synctest.Wait()
	if l.Err() != nil || l.OldestWait() != 0 {
		t.Errorf("afterwards: got %v, oldest line %v", l.Err(), l.OldestWait())
	}
	appendLines(t, l, 1)
	closeLog(t, l)
	var got []string
	for text := range strings.Lines(string(read(t, path))) {
		var line audit.Line
		if err := line.UnmarshalJSON([]byte(text)); err != nil {
			t.Fatal(err)
		}
		switch {
		case line.Entry != nil:
			got = append(got, line.Entry.RequestId)
		case line.Event.Kind == audit.KindUnanswered:
			got = append(got, fmt.Sprint("unanswered ", line.Event.Unanswered))
		}
	}
	if want := "[0 first unanswered [2] change unanswered [4] 0]"; fmt.Sprint(got) != want {
		t.Errorf("lines: got %v, want %v", got, want)
	}
	if _, err := verify(t, path); err != nil {
		t.Error(err)
	}
}

// TestTextsOfAbandonedLines lets the callers of changes leave while a flush hangs. Other lines are encoded
// afterwards. Each line must nevertheless have its own text.
func TestTextsOfAbandonedLines(t *testing.T) { synctest.Test(t, testTextsOfAbandonedLines) }

func testTextsOfAbandonedLines(t *testing.T) {
	l, path, hang := openHanging(t)
	hang <- struct{}{} // the disk hangs
	var want, got []string
	for n := range 8 {
		want = append(want, strings.Repeat(fmt.Sprint(n), 10))
		if err := l.AppendChange(audit.Entry{RequestId: want[n]}, func(error) {}); !errors.Is(err, audit.ErrSlow) {
			t.Fatalf("change %d: got %v, want ErrSlow", n, err)
		}
	}
	<-hang // the disk continues
	synctest.Wait()
	closeLog(t, l)
	err := audit.Read(bytes.NewReader(read(t, path)), func(line audit.Line) error {
		if line.Entry != nil {
			got = append(got, line.Entry.RequestId)
		}
		return nil
	})
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("lines: got %v, %v, want %v", got, err, want)
	}
	if _, err := verify(t, path); err != nil {
		t.Error(err)
	}
}

// TestCheckpointAfterFault checks that the lines before a fault get their checkpoint as soon as the log
// can be written again, and not at the next turn.
func TestCheckpointAfterFault(t *testing.T) { synctest.Test(t, testCheckpointAfterFault) }

func testCheckpointAfterFault(t *testing.T) {
	l, d := openFaulty(t, func(c *audit.Config) { c.CheckpointEvery = time.Hour })
	appendLines(t, l, 1)
	d.full.Store(true)
	if err := l.Append(audit.Entry{}); err == nil {
		t.Fatal("Append on a full disk: got nil, want an error")
	}
	time.Sleep(10 * time.Second) // the first checkpoint falls into the fault
	d.full.Store(false)
	time.Sleep(10 * time.Second)
	if !strings.Contains(string(read(t, d.path)), `"checkpoint"`) {
		t.Errorf("no checkpoint 10 s after the fault:\n%s", read(t, d.path))
	}
	closeLog(t, l)
}

// TestCheckpointAfterHang checks the same for a flush that hangs.
func TestCheckpointAfterHang(t *testing.T) { synctest.Test(t, testCheckpointAfterHang) }

func testCheckpointAfterHang(t *testing.T) {
	l, path, hang := openHanging(t)
	time.Sleep(2 * time.Second) // the first checkpoint's turn has passed: there was no line
	hang <- struct{}{}
	if err := l.Append(audit.Entry{}); !errors.Is(err, audit.ErrSlow) {
		t.Fatalf("Append: got %v, want ErrSlow", err)
	}
	time.Sleep(10 * time.Second)
	<-hang
	time.Sleep(10 * time.Second)
	if !strings.Contains(string(read(t, path)), `"checkpoint"`) {
		t.Errorf("no checkpoint 10 s after the flush has returned:\n%s", read(t, path))
	}
	closeLog(t, l)
}
