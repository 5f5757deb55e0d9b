package audit_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

// A disk holds the files of a log and injects faults.
type disk struct {
	path          string // the log's path
	full, noFlush atomic.Bool
	opened        atomic.Int32 // the number of files opened
}

type faulty struct {
	*os.File
	disk *disk
}

func (d *disk) open(path string, flag int) (audit.TestFile, error) {
	if d.full.Load() {
		return nil, syscall.ENOSPC
	}
	d.opened.Add(1)
	f, err := os.OpenFile(path, flag, 0o600)
	return faulty{f, d}, err
}

// WriteAt writes only half of p on a full disk.
func (f faulty) WriteAt(p []byte, offset int64) (int, error) {
	if f.disk.full.Load() {
		n, err := f.File.WriteAt(p[:len(p)/2], offset)
		return n, errors.Join(err, syscall.ENOSPC)
	}
	return f.File.WriteAt(p, offset)
}

func (f faulty) Sync() error {
	if f.disk.noFlush.Load() {
		return syscall.EIO
	}
	return f.File.Sync()
}

// openFaulty opens a log on a disk that can fail.
func openFaulty(t *testing.T, change func(*audit.Config)) (*audit.Log, *disk) {
	t.Helper()
	d := &disk{path: filepath.Join(t.TempDir(), "audit.log")}
	cfg := config(d.path)
	cfg.SetOpen(d.open)
	if change != nil {
		change(&cfg)
	}
	l := openConfig(t, cfg)
	t.Cleanup(func() { _ = l.Close() }) // most tests close it themselves
	return l, d
}

// wait waits until the log has done something in the background.
func wait(t *testing.T, event string, done func() bool) {
	t.Helper()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(30 * time.Second); !done(); <-poll.C {
		if time.Now().After(deadline) {
			t.Fatalf("no %s within 30 s", event)
		}
	}
}

// TestFaults injects and repairs each fault under load. During a fault the log must acknowledge no
// line. Afterwards it must have all acknowledged lines and an event about the fault.
func TestFaults(t *testing.T) {
	aside := func(path string) string { return filepath.Join(filepath.Dir(path), "elsewhere") }
	for name, tc := range map[string]struct {
		fail, repair func(*disk, string) error
		files        int // zero means any number
		record       string
	}{
		"disk full": {
			func(d *disk, _ string) error { d.full.Store(true); return nil },
			func(d *disk, _ string) error { d.full.Store(false); return nil }, 1, "no space left",
		},
		"flush failed": {
			func(d *disk, _ string) error { d.noFlush.Store(true); return nil },
			func(d *disk, _ string) error { d.noFlush.Store(false); return nil }, 0, "Abandoned",
		},
		"removed": {
			func(_ *disk, path string) error { return os.Rename(path, aside(path)) },
			func(_ *disk, path string) error { return os.Rename(aside(path), path) }, 1, "removed",
		},
		"replaced": {
			func(_ *disk, path string) error {
				return errors.Join(os.Rename(path, aside(path)), os.WriteFile(path, []byte("{}\n"), 0o600))
			},
			func(_ *disk, path string) error { return os.Rename(aside(path), path) }, 1, "replaced",
		},
		"written to by another": {
			// The text is longer than the next lines, so they do not overwrite all of it.
			func(_ *disk, path string) error { return appendTo(path, strings.Repeat("x", 10_000)) },
			func(_ *disk, path string) error { return truncateBefore(path, "xxxxxxxx") }, 1, "another process wrote",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, d := openFaulty(t, nil)
			done := startLoad(t, l)
			wait(t, "lines", func() bool { return l.Head().Seq > 20 })
			if err := tc.fail(d, d.path); err != nil {
				t.Fatal(err)
			}
			wait(t, "error from Err", func() bool { return l.Err() != nil })
			head := l.Head()
			if err := l.Append(audit.Entry{}); err == nil {
				t.Error("Append during the fault: got nil, want an error")
			}
			lost := false
			if l.Offer(audit.Entry{}, func() { lost = true }); !lost {
				t.Error("Offer during the fault did not call lost")
			}
			if l.Head() != head {
				t.Errorf("head during the fault: got %v, want %v", l.Head(), head)
			}
			if err := tc.repair(d, d.path); err != nil {
				t.Fatal(err)
			}
			wait(t, "nil from Err", func() bool { return l.Err() == nil })
			wait(t, "new lines", func() bool { return l.Head().Seq > head.Seq+20 })
			acknowledged := done()
			closeLog(t, l)
			result, err := verify(t, d.path)
			if err != nil {
				t.Fatalf("Verify: got %+v, %v, want nil", result, err)
			}
			all := allText(t, d.path)
			for _, id := range acknowledged {
				if !strings.Contains(all, `"`+id+`"`) {
					t.Errorf("the log lacks the acknowledged line %q", id)
				}
			}
			if !strings.Contains(all, "Resumed") || !strings.Contains(all, tc.record) {
				t.Errorf("the log lacks the text Resumed or %q", tc.record)
			}
			if files, err := audit.Files(d.path); err != nil || tc.files > 0 && len(files) != tc.files {
				t.Errorf("files: got %v, %v, want %d", files, err, tc.files)
			}
		})
	}
}

// startLoad appends from eight goroutines until the returned function is called. That function
// returns the RequestIds of the acknowledged lines.
func startLoad(t *testing.T, l *audit.Log) func() []string {
	stop := make(chan struct{})
	var writers sync.WaitGroup
	var mu sync.Mutex
	var acknowledged []string // guarded by mu
	for w := range 8 {
		writers.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprintf("%d of %d", n, w)
				if l.Append(audit.Entry{RequestId: id}) == nil {
					mu.Lock()
					acknowledged = append(acknowledged, id)
					mu.Unlock()
				}
			}
		})
	}
	return func() []string {
		close(stop)
		writers.Wait()
		return acknowledged
	}
}

func appendTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

func truncateBefore(path, text string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.Truncate(path, int64(strings.Index(string(content), text)))
}

func allText(t *testing.T, path string) string {
	t.Helper()
	files, err := audit.Files(path)
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range files {
		all.Write(read(t, f))
	}
	return all.String()
}

// TestRotation rotates under load. The chain must continue through all files, and each rotated file
// must end with a checkpoint.
func TestRotation(t *testing.T) {
	l, d := openFaulty(t, func(c *audit.Config) { c.RotateSize = 8 << 10 })
	done := startLoad(t, l)
	wait(t, "rotation into more than five files", func() bool {
		files, err := audit.Files(d.path)
		return err == nil && len(files) > 5
	})
	acknowledged := done()
	closeLog(t, l)
	if result, err := verify(t, d.path); err != nil || result.Proven.Seq != result.Last.Seq-1 {
		t.Errorf("Verify: got %+v, %v, want proven up to the line before the last", result, err)
	}
	if n := strings.Count(allText(t, d.path), `"RequestId"`); n != len(acknowledged) {
		t.Errorf("entries in the log: got %d, want the %d acknowledged ones", n, len(acknowledged))
	}
	files, err := audit.Files(d.path)
	if err != nil {
		t.Fatal(err)
	}
	// A rotated file with a final checkpoint can be verified separately by anyone who stored the
	// head before it.
	lines := strings.Split(strings.TrimSuffix(string(read(t, files[1])), "\n"), "\n")
	if !strings.Contains(strings.Join(lines[max(0, len(lines)-20):], ""), "Checkpoint") {
		t.Error("the end of the rotated file: got no checkpoint, want one")
	}
	if err := os.Remove(files[2]); err != nil {
		t.Fatal(err)
	}
	if result, err := verify(t, d.path); err == nil {
		t.Errorf("Verify without one file: got %+v, want an error", result)
	}
}

// TestRotateByAge checks rotation by age, and that checkpoints are written periodically and passed
// to Keep.
func TestRotateByAge(t *testing.T) {
	var kept atomic.Pointer[audit.Checkpoint]
	l, d := openFaulty(t, func(c *audit.Config) {
		c.CheckpointEvery, c.RotateAge = 10*time.Millisecond, 50*time.Millisecond
		c.Keep = func(c audit.Checkpoint, ended bool) error {
			if !ended {
				kept.Store(&c)
			}
			return nil
		}
	})
	wait(t, "rotation into three files", func() bool {
		appendLines(t, l, 1)
		files, err := audit.Files(d.path)
		return err == nil && len(files) > 2
	})
	closeLog(t, l)
	if result, err := verify(t, d.path); err != nil || kept.Load() == nil || kept.Load().Head != result.Proven {
		t.Errorf("Verify: got %+v, %v, want proven up to the kept checkpoint %+v", result, err, kept.Load())
	}
}

// TestTokenAway checks that the log continues and rotates while the token signs nothing, and that
// it is proven again once the token signs.
func TestTokenAway(t *testing.T) {
	var away atomic.Bool
	away.Store(true)
	l, d := openFaulty(t, func(c *audit.Config) {
		c.RotateSize = 4 << 10
		sign := c.Sign
		c.Sign = func(ctx context.Context, digest []byte) ([]byte, error) {
			if away.Load() {
				return nil, errors.New("the token is away")
			}
			return sign(ctx, digest)
		}
	})
	wait(t, "rotation into three files", func() bool {
		appendLines(t, l, 1)
		files, err := audit.Files(d.path)
		return err == nil && len(files) > 2
	})
	if _, err := verify(t, d.path); err == nil {
		t.Error("Verify without a checkpoint: got nil, want an error")
	}
	away.Store(false)
	closeLog(t, l)
	if result, err := verify(t, d.path); err != nil || result.Proven.Seq != result.Last.Seq-1 {
		t.Errorf("Verify: got %+v, %v, want proven up to the line before the last", result, err)
	}
}

// TestRotationCutOff reproduces a crash at each step of a rotation.
func TestRotationCutOff(t *testing.T) {
	for name, cutOff := range map[string]func(path, first string) error{
		"renamed": func(path, first string) error { return os.Rename(path, first) },
		"renamed, new one created": func(path, first string) error {
			return errors.Join(os.Rename(path, first), os.WriteFile(path, nil, 0o600))
		},
		"new one torn": func(path, first string) error {
			return errors.Join(os.Rename(path, first), os.WriteFile(path, []byte(`{"Seq":9,"Pre`), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := newLog(t, 6)
			if err := cutOff(path, path+".0000000000000001"); err != nil {
				t.Fatal(err)
			}
			checkContinues(t, path, 0)
			if result, err := verify(t, path); err != nil || result.Lines < 8 {
				t.Errorf("Verify: got %+v, %v, want at least 8 lines", result, err)
			}
		})
	}
}

// isLoss reports whether err is a LossError.
func isLoss(err error) bool {
	loss := new(audit.LossError)
	return errors.As(err, &loss)
}

// TestLossHint checks that the log messages contain AcceptLossHint while a file is missing, but not
// on a full disk.
func TestLossHint(t *testing.T) {
	const hint = "ask the operator"
	var logged buffer
	l, d := openFaulty(t, func(c *audit.Config) {
		c.Logger, c.AcceptLossHint = slog.New(slog.NewTextHandler(&logged, nil)), hint
	})
	appendLines(t, l, 1)
	d.full.Store(true)
	if err := l.Append(audit.Entry{}); err == nil || isLoss(err) || strings.Contains(logged.String(), hint) {
		t.Errorf("a full disk: got %v and messages %s, want an error other than LossError and no hint",
			err, logged.String())
	}
	d.full.Store(false)
	appendLines(t, l, 1)
	if err := os.Rename(d.path, d.path+".away"); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(audit.Entry{}); !isLoss(err) || !isLoss(l.Err()) || !strings.Contains(logged.String(), hint) {
		t.Errorf("a removed file: got %v and messages %s, want LossError and the hint", err, logged.String())
	}
}

// TestExpect opens logs with and without the expected line.
func TestExpect(t *testing.T) {
	path := newLog(t, 6)
	whole := read(t, path)
	l := open(t, path)
	appendLines(t, l, 3)
	head, err := l.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	cfg := config(path)
	cfg.Expect = head.Head
	closeLog(t, openConfig(t, cfg))

	rewritten := strings.Replace(string(read(t, path)), "Sign", "Sigm", 1)
	for name, content := range map[string]string{
		"cut": string(whole), "empty": "",
		"rewritten": strings.Join(chain(strings.SplitAfter(rewritten, "\n")), ""),
	} {
		if err := os.WriteFile(path, []byte(strings.TrimSuffix(content, "{\"Seq\"")), 0o600); err != nil {
			t.Fatal(err)
		}
		if l, err := audit.Open(cfg); !isLoss(err) {
			t.Errorf("%s: got %v, want LossError", name, err)
			if err == nil {
				closeLog(t, l)
			}
		}
	}
	cfg.AcceptLoss = true
	l = openConfig(t, cfg)
	appendLines(t, l, 1)
	closeLog(t, l)
	v := audit.Verifier{Key: &key.PublicKey, After: &head}
	if result, err := verifyText(v, string(read(t, path))); err != nil || result.First.Seq != head.Seq+1 {
		t.Errorf("Verify after the head: got %+v, %v, want lines from %d on", result, err, head.Seq+1)
	}
	if _, err := verify(t, path); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("Verify after an accepted loss: got %v, want \"missing\"", err)
	}
}

// TestRefusedStartChangesNothing checks that Open leaves the other files unchanged if the current
// one is missing, so that the operator can restore it.
func TestRefusedStartChangesNothing(t *testing.T) {
	path := newLog(t, 6)
	l := open(t, path)
	appendLines(t, l, 3)
	head, err := l.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	// The file looks as if the third process had rotated it.
	rotated := path + ".0000000000000001"
	if err := os.Rename(path, rotated); err != nil {
		t.Fatal(err)
	}
	whole := read(t, rotated)
	cfg := config(path)
	cfg.Expect = audit.Head{Seq: head.Seq + 5, Hash: head.Hash}
	if _, err := audit.Open(cfg); !isLoss(err) || !strings.Contains(err.Error(), "its end is missing") {
		t.Errorf("Open: got %v, want LossError with \"its end is missing\"", err)
	}
	if files, err := audit.Files(path); err != nil || len(files) != 1 || files[0] != rotated ||
		string(read(t, rotated)) != string(whole) {
		t.Errorf("files after a refused Open: got %v, %v, want only the unchanged rotated file", files, err)
	}
	cfg.AcceptLoss = true
	closeLog(t, openConfig(t, cfg))
	if string(read(t, rotated)) != string(whole) {
		t.Error("Open with AcceptLoss changed the rotated file, want it unchanged")
	}
}

// TestEnded adds a line with the right hash to a log that was closed. Anyone who can write the file
// can do so.
func TestEnded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	var end audit.Checkpoint
	cfg := config(path)
	cfg.Keep = func(c audit.Checkpoint, ended bool) error {
		if ended {
			end = c
		}
		return nil
	}
	l := openConfig(t, cfg)
	appendLines(t, l, 3)
	closeLog(t, l)
	cfg.Expect, cfg.Ended = end.Head, true
	keep := cfg.Keep
	cfg.Keep = func(audit.Checkpoint, bool) error { return errors.New("the database is full") }
	if _, err := audit.Open(cfg); err == nil || !strings.Contains(err.Error(), "continues") {
		t.Errorf("Open with a failing Keep: got %v, want \"continues\"", err)
	}
	cfg.Keep = keep
	l = openConfig(t, cfg)
	closeLog(t, l)
	cfg.Expect = end.Head
	lines := strings.SplitAfter(strings.TrimSuffix(string(read(t, path)), "\n")+"\n", "\n")
	lines = append(lines[:len(lines)-1], lines[1])
	if err := os.WriteFile(path, []byte(strings.Join(chain(lines), "")), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := audit.Open(cfg); !isLoss(err) || !strings.Contains(err.Error(), "added") {
		t.Errorf("Open with an added line: got %v, want LossError with \"added\"", err)
	}
	// After a crash Open cannot know whether the line was added, and records it as unwitnessed.
	cfg.Ended = false
	l = openConfig(t, cfg)
	closeLog(t, l)
	if text := string(read(t, path)); !strings.Contains(text, `"Unwitnessed":1`) {
		t.Errorf("the log lacks an unwitnessed event:\n%s", text)
	}
}

// TestBroken opens a log whose chain is broken before its end, by a power failure or by an
// attacker. The log must continue only if the operator accepts the loss.
func TestBroken(t *testing.T) {
	path := newLog(t, 6)
	text := string(read(t, path))
	if err := os.WriteFile(path, []byte(strings.Replace(text, "Sign", "Sigm", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := audit.Open(config(path)); !isLoss(err) || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("Open: got %v, want LossError with \"line 2\"", err)
	}
	cfg := config(path)
	cfg.AcceptLoss = true
	closeLog(t, openConfig(t, cfg))
	if text := string(read(t, path)); !strings.Contains(text, "accepted by the operator") {
		t.Errorf("the log lacks a lost event:\n%s", text)
	}
}

// TestAbandonedEnd damages a file before and after its last flushed line. Damage after that line
// does not matter, because no request was answered because of the lines there.
func TestAbandonedEnd(t *testing.T) {
	l, d := openFaulty(t, nil)
	appendLines(t, l, 3)
	flushed := len(read(t, d.path))
	d.noFlush.Store(true)
	if err := l.Append(audit.Entry{RequestId: "unflushed"}); err == nil {
		t.Fatal("Append without a flush: got nil, want an error")
	}
	d.noFlush.Store(false)
	wait(t, "next file", func() bool { return l.Err() == nil })
	appendLines(t, l, 1)
	closeLog(t, l)
	first := d.path + ".0000000000000001"
	result, err := verify(t, d.path)
	if err != nil || result.Void != 1 {
		t.Fatalf("Verify: got %+v, %v, want one void line", result, err)
	}
	content := read(t, first)
	for offset, want := range map[int]bool{flushed + 20: true, flushed - 20: false} {
		damaged := []byte(string(content))
		damaged[offset] ^= 1
		if err := os.WriteFile(first, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if result, err := verify(t, d.path); (err == nil) != want {
			t.Errorf("damage at byte %d, %d bytes flushed: got %+v, %v, want valid %v", offset, flushed, result, err,
				want)
		}
	}
	if missing, err := l.Missing(1, []string{"unflushed"}); err != nil || len(missing) != 1 {
		t.Errorf("Missing for a void line: got %v, %v, want its RequestId", missing, err)
	}
}

// TestFailingFlushMakesNoFiles checks that the log tries a disk that does not flush once a second,
// regardless of the number of calls.
func TestFailingFlushMakesNoFiles(t *testing.T) {
	l, d := openFaulty(t, nil)
	appendLines(t, l, 1)
	d.noFlush.Store(true)
	for range 1000 {
		if err := l.Append(audit.Entry{}); err == nil {
			t.Fatal("Append without a flush: got nil, want an error")
		}
	}
	if files, err := audit.Files(d.path); err != nil || len(files) > 2 || d.opened.Load() > 3 {
		t.Errorf("got %d files, %d opened, %v, want at most 2 files and 3 opened", len(files), d.opened.Load(), err)
	}
}

// TestMissing checks that Missing searches all files from a line on.
func TestMissing(t *testing.T) {
	l, _ := openFaulty(t, func(c *audit.Config) { c.RotateSize = 1 << 10 })
	for n := range 50 {
		if err := l.Append(audit.Entry{RequestId: fmt.Sprintf("id-%d", n)}); err != nil {
			t.Fatal(err)
		}
	}
	missing, err := l.Missing(20, []string{"id-2", "id-45", "id-49", "id-50"})
	if want := "[id-2 id-50]"; err != nil || fmt.Sprint(missing) != want {
		t.Errorf("missing from line 20 on: got %v, %v, want %s", missing, err, want)
	}
}

// TestOffer checks that lines without a waiting caller are written.
func TestOffer(t *testing.T) {
	l, d := openFaulty(t, nil)
	l.Offer(audit.Entry{RequestId: "offered"}, func() { t.Error("Offer called lost") })
	closeLog(t, l)
	if !strings.Contains(allText(t, d.path), "offered") {
		t.Error("the log lacks the offered line")
	}
}

// TestWarnFree checks that the log warns once that the disk is filling up.
func TestWarnFree(t *testing.T) {
	var logged buffer
	l, _ := openFaulty(t, func(c *audit.Config) {
		c.WarnFree, c.CheckpointEvery = 1<<62, 5*time.Millisecond
		c.Logger = slog.New(slog.NewTextHandler(&logged, nil))
	})
	wait(t, "warning", func() bool { return strings.Contains(logged.String(), "filling up") })
	before := l.Head().Seq
	wait(t, "more checkpoints", func() bool {
		appendLines(t, l, 1)
		return l.Head().Seq > before+10
	})
	if n := strings.Count(logged.String(), "filling up"); n != 1 {
		t.Errorf("warnings: got %d, want 1", n)
	}
}

// A buffer can be read while another goroutine writes to it.
type buffer struct {
	mu   sync.Mutex
	text strings.Builder // guarded by mu
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
