package audit_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

// intend queues a line.
func intend(t *testing.T, l *audit.Log, id string) *audit.Intent {
	t.Helper()
	i, err := l.Intend(audit.Entry{Time: time.Now(), RequestId: id})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// written waits until the line of an intent is on stable storage.
func written(t *testing.T, i *audit.Intent) *audit.Intent {
	t.Helper()
	if err := i.Wait(); err != nil {
		t.Fatal(err)
	}
	return i
}

// summary returns a log's lines in a few words each, without checkpoints.
func summary(t *testing.T, path string) string {
	t.Helper()
	files, err := audit.Files(path)
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	requests := make(map[uint64]string) // by the numbers of their lines: a checkpoint can come in between
	named := func(lines []uint64) (ids []string) {
		for _, line := range lines {
			ids = append(ids, requests[line])
		}
		return ids
	}
	for _, file := range files {
		for text := range strings.Lines(string(read(t, file))) {
			var line audit.Line
			if err := line.UnmarshalJSON([]byte(text)); err != nil {
				t.Fatal(err)
			}
			if line.Entry != nil {
				requests[line.Seq] = line.Entry.RequestId
			}
			switch e := line.Event; {
			case e == nil && line.Entry.Intended:
				words = append(words, "intended "+line.Entry.RequestId)
			case e == nil && line.Entry.NotReleased > 0:
				words = append(words, fmt.Sprintf("%s not released: %s", line.Entry.RequestId, requests[line.Entry.NotReleased]))
			case e == nil:
				words = append(words, line.Entry.RequestId)
			case e.Kind == audit.KindUnanswered:
				words = append(words, fmt.Sprint("unanswered ", named(e.Unanswered)))
			case e.Kind == audit.KindInDoubt:
				words = append(words, fmt.Sprint("in doubt ", named(e.InDoubt)))
			case e.Kind != audit.KindCheckpoint:
				words = append(words, string(e.Kind))
			}
		}
	}
	return strings.Join(words, ", ")
}

func wantSummary(t *testing.T, path, want string) {
	t.Helper()
	if got := summary(t, path); got != want {
		t.Errorf("lines: got  %s,\nwant %s", got, want)
	}
	if _, err := verify(t, path); err != nil {
		t.Error(err)
	}
}

// crash copies the files of a log that is open, as a crash would leave them, and returns the copy's path.
func crash(t *testing.T, path string) string {
	t.Helper()
	dir := t.TempDir()
	files, err := audit.Files(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(file)), read(t, file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, filepath.Base(path))
}

// TestIntent queues lines while the disk hangs. Nobody waits before Wait.
func TestIntent(t *testing.T) { synctest.Test(t, testIntent) }

func testIntent(t *testing.T) {
	l, path, hang := openHanging(t)
	appendLines(t, l, 1)
	hang <- struct{}{}
	began := time.Now()
	released, withheld := intend(t, l, "released"), intend(t, l, "withheld")
	if waited := time.Since(began); waited > 0 {
		t.Errorf("Intend waited for %v", waited)
	}
	time.Sleep(time.Millisecond)
	<-hang
	written(t, released).Close(true)
	if err := withheld.Withhold(audit.Entry{RequestId: "withheld"}); err != nil {
		t.Error(err)
	}
	withheld.Close(true)
	hang <- struct{}{}
	slow := intend(t, l, "slow")
	if err := slow.Wait(); !errors.Is(err, audit.ErrSlow) {
		t.Errorf("Wait while the disk hangs: got %v, want ErrSlow", err)
	}
	if err := slow.Withhold(audit.Entry{RequestId: "slow"}); !errors.Is(err, audit.ErrSlow) {
		t.Errorf("Withhold while the disk hangs: got %v, want ErrSlow", err)
	}
	slow.Close(true)
	<-hang
	synctest.Wait()
	appendLines(t, l, 1)
	closeLog(t, l)
	wantSummary(t, path, "0, intended released, intended withheld, withheld not released: withheld, intended slow, unanswered [slow], 0")
	closeLog(t, openConfig(t, config(path)))
	if got := summary(t, path); strings.Contains(got, "doubt") {
		t.Errorf("after a clean stop: %s", got)
	}
}

// TestWithholdFails lets the line fail that says why a result was not released. An event names the first
// line as soon as the log can be written.
func TestWithholdFails(t *testing.T) { synctest.Test(t, testWithholdFails) }

func testWithholdFails(t *testing.T) {
	l, d := openFaulty(t, nil)
	i := written(t, intend(t, l, "withheld"))
	d.full.Store(true)
	if err := i.Withhold(audit.Entry{RequestId: "withheld"}); err == nil {
		t.Error("Withhold on a full disk: got nil, want an error")
	}
	i.Close(true)
	failed := intend(t, l, "failed")
	if err := failed.Wait(); err == nil {
		t.Error("Wait on a full disk: got nil, want an error")
	}
	failed.Close(true)
	crashed := crash(t, d.path) // the event is not written yet
	d.full.Store(false)
	time.Sleep(5 * time.Second)
	wantSummary(t, d.path, "intended withheld, resumed, unanswered [withheld]")
	closeLog(t, l)

	closeLog(t, open(t, crashed))
	wantSummary(t, crashed, "intended withheld, in doubt [withheld]")
}

// TestInDoubt ends a log between the lines of requests and their ends. The next start names the lines in
// doubt, and no others; the start after that names none.
func TestInDoubt(t *testing.T) {
	for name, rotate := range map[string]bool{"one file": false, "a rotated file": true} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir() + "/audit.log"
			cfg := config(path)
			var expect atomic.Pointer[audit.Head]
			cfg.Keep = func(c audit.Checkpoint, _ bool) error {
				expect.Store(&c.Head)
				return nil
			}
			if rotate {
				cfg.RotateSize = 1 // each line
			}
			l := openConfig(t, cfg)
			defer l.Close()
			written(t, intend(t, l, "released")).Close(true)
			written(t, intend(t, l, "first"))
			withheld := written(t, intend(t, l, "withheld"))
			if err := withheld.Withhold(audit.Entry{RequestId: "withheld"}); err != nil {
				t.Fatal(err)
			}
			withheld.Close(true)
			if err := l.Withhold(1, audit.Entry{RequestId: "released"}); err != nil { // a line about an earlier line
				t.Fatal(err)
			}
			written(t, intend(t, l, "second")).Close(true)
			written(t, intend(t, l, "third"))
			crashed := crash(t, path)
			cfg = config(crashed)
			if head := expect.Load(); head != nil {
				cfg.Expect = *head
			}
			closeLog(t, openConfig(t, cfg))
			got := summary(t, crashed)
			// The log does not say yet that the second is closed.
			if want := "in doubt [first second third]"; !strings.HasSuffix(got, want) {
				t.Errorf("lines: got %s, want %s at the end", got, want)
			}
			if result, err := verify(t, crashed); err != nil || len(result.InDoubt) != 3 {
				t.Errorf("Verify: got %v in doubt, %v, want 3", result.InDoubt, err)
			}
			closeLog(t, open(t, crashed))
			if again := summary(t, crashed); again != got {
				t.Errorf("the second start wrote lines: got %s, want %s", again, got)
			}
		})
	}
}

// TestClosedWhileIdle closes a line after its checkpoint was written, and writes no line after that. The next
// checkpoint says that the line is closed, so a later crash leaves it out of doubt; and then no more checkpoints follow.
func TestClosedWhileIdle(t *testing.T) { synctest.Test(t, testClosedWhileIdle) }

func testClosedWhileIdle(t *testing.T) {
	path := t.TempDir() + "/audit.log"
	cfg := config(path)
	cfg.CheckpointEvery = time.Minute
	l := openConfig(t, cfg)
	i := written(t, intend(t, l, "released"))
	time.Sleep(90 * time.Second)
	if closeLog(t, open(t, crash(t, path))); !strings.Contains(allText(t, path), "checkpoint") {
		t.Error("no checkpoint")
	}
	i.Close(true)
	time.Sleep(time.Hour)
	crashed := crash(t, path)
	closeLog(t, open(t, crashed))
	wantSummary(t, crashed, "intended released")
	if n := strings.Count(allText(t, path), `"Kind":"checkpoint"`); n != 2 {
		t.Errorf("%d checkpoints in an hour without requests, want 2", n)
	}
	closeLog(t, l)
}

// TestWithhold adds lines about results that were not released, also of lines that no Intent wrote.
func TestWithhold(t *testing.T) {
	path := t.TempDir() + "/audit.log"
	l := open(t, path)
	seq, err := l.AppendNumbered(audit.Entry{RequestId: "read"})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Withhold(seq, audit.Entry{RequestId: "read"}); err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	wantSummary(t, path, "read, read not released: read")
	if _, err := l.Intend(audit.Entry{}); err == nil {
		t.Error("Intend in a closed log: no error")
	}
	if err := l.Withhold(seq, audit.Entry{}); err == nil {
		t.Error("Withhold in a closed log: no error")
	}
}

// A slowFile takes some time for each flush.
type slowFile struct {
	*os.File
	flush time.Duration
}

func (f slowFile) Sync() error {
	time.Sleep(f.flush)
	return f.File.Sync()
}

// TestIntentsOverlap lets a signature and a flush take 5 ms each. One caller waits for the slower of the two,
// and not for their sum. With 32 callers, half of them wait for two flushes at most: the one that was under way when
// they came, and their own.
func TestIntentsOverlap(t *testing.T) {
	const step, rounds = 5 * time.Millisecond, 100
	for callers, want := range map[int]time.Duration{1: step, 32: 2 * step} {
		synctest.Test(t, func(t *testing.T) {
			cfg := config(t.TempDir() + "/audit.log")
			cfg.SetOpen(func(path string, flag int) (audit.TestFile, error) {
				f, err := os.OpenFile(path, flag, 0o600)
				return slowFile{f, step}, err
			})
			l := openConfig(t, cfg)
			var mu sync.Mutex
			var times []time.Duration // guarded by mu
			var running sync.WaitGroup
			for range callers {
				running.Go(func() {
					for range rounds {
						began := time.Now()
						i, err := l.Intend(audit.Entry{RequestId: "signature"})
						if err != nil {
							t.Error(err)
							return
						}
						time.Sleep(step) // the token signs
						if err := i.Wait(); err != nil {
							t.Error(err)
						}
						i.Close(true)
						mu.Lock()
						times = append(times, time.Since(began))
						mu.Unlock()
					}
				})
			}
			running.Wait()
			closeLog(t, l)
			slices.Sort(times)
			if median := times[len(times)/2]; median > want {
				t.Errorf("%d callers: the median is %v, want at most %v", callers, median, want)
			}
		})
	}
}

// TestAbandonedIntent ends intents whose callers neither released the results nor withheld them, as after a panic. An
// event says that they were not released.
func TestAbandonedIntent(t *testing.T) {
	path := t.TempDir() + "/audit.log"
	l := open(t, path)
	i := intend(t, l, "abandoned")
	i.Close(false)
	written(t, intend(t, l, "released")).Close(true)
	after := written(t, intend(t, l, "abandoned later"))
	after.Close(false)
	appendLines(t, l, 1)
	closeLog(t, l)
	got := summary(t, path)
	// The log drops the first line, unless it was faster than the caller.
	if got != "intended released, intended abandoned later, unanswered [abandoned later], 0" &&
		got != "intended abandoned, unanswered [abandoned], intended released, intended abandoned later, unanswered [abandoned later], 0" {
		t.Errorf("lines: got %s, want unanswered events that name the abandoned lines", got)
	}
	if _, err := verify(t, path); err != nil {
		t.Error(err)
	}
	closeLog(t, open(t, path))
	if strings.Contains(summary(t, path), "doubt") {
		t.Errorf("after a clean stop: %s", summary(t, path))
	}
}

// TestInDoubtAfterLoss crashes with a line in doubt that the operator then gives up. No event names it: its number
// belongs to another line.
func TestInDoubtAfterLoss(t *testing.T) {
	path := t.TempDir() + "/audit.log"
	var expect audit.Checkpoint
	cfg := config(path)
	cfg.Keep = func(c audit.Checkpoint, _ bool) error {
		expect = c
		return nil
	}
	l := openConfig(t, cfg)
	appendLines(t, l, 2)
	closeLog(t, l)
	l = open(t, path) // by somebody who adds lines while no gateway runs
	written(t, intend(t, l, "added"))
	cfg = config(crash(t, path))
	closeLog(t, l)
	cfg.Expect, cfg.Ended, cfg.AcceptLoss = expect.Head, true, true
	closeLog(t, openConfig(t, cfg))
	if text := allText(t, cfg.Path); strings.Contains(text, `"Kind":"indoubt"`) || !strings.Contains(text, `"Kind":"lost"`) {
		t.Errorf("the log names a line that it does not have, or lacks the loss:\n%s", text)
	}
}

// TestCleanStopWithoutToken stops a log that cannot sign its last checkpoint. It ended in order, so the next start
// has no line in doubt, unless an intent was still open.
func TestCleanStopWithoutToken(t *testing.T) {
	for isOpen, want := range map[bool]string{false: "intended released", true: "intended released, intended open, in doubt [open]"} {
		cfg := config(t.TempDir() + "/audit.log")
		cfg.Sign = func(context.Context, []byte) ([]byte, error) { return nil, errors.New("the token is away") }
		var expect audit.Checkpoint
		var ended bool
		cfg.Keep = func(c audit.Checkpoint, last bool) error {
			expect, ended = c, last
			return nil
		}
		l := openConfig(t, cfg)
		written(t, intend(t, l, "released")).Close(true)
		if isOpen {
			written(t, intend(t, l, "open"))
		}
		closeLog(t, l)
		cfg.Expect, cfg.Ended = expect.Head, ended
		closeLog(t, openConfig(t, cfg))
		if got := summary(t, cfg.Path); got != want {
			t.Errorf("an open intent: %v; lines: got %s, want %s", isOpen, got, want)
		}
	}
}
