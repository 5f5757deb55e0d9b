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

// A disk is where the files of a log are, and what is wrong with it.
type disk struct {
	path          string // of the log
	full, noFlush atomic.Bool
	opened        atomic.Int32 // files
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

// WriteAt writes half of it on a full disk.
func (f faulty) WriteAt(p []byte, off int64) (int, error) {
	if f.disk.full.Load() {
		n, err := f.File.WriteAt(p[:len(p)/2], off)
		return n, errors.Join(err, syscall.ENOSPC)
	}
	return f.File.WriteAt(p, off)
}

func (f faulty) Sync() error {
	if f.disk.noFlush.Load() {
		return syscall.EIO
	}
	return f.File.Sync()
}

// newFaulty opens a log on a disk that can be made to fail.
func newFaulty(t *testing.T, change func(*audit.Config)) (*audit.Log, *disk) {
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

// wait waits for what the log does by itself.
func wait(t *testing.T, what string, holds func() bool) {
	t.Helper()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(30 * time.Second); !holds(); <-poll.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited 30 s for %s", what)
		}
	}
}

// TestFaults makes each thing go wrong and right again under load. While it is
// wrong nothing is acknowledged; what was acknowledged is there; and the log
// says what happened.
func TestFaults(t *testing.T) {
	aside := func(path string) string { return filepath.Join(filepath.Dir(path), "elsewhere") }
	for name, tc := range map[string]struct {
		wrong, right func(*disk, string) error
		files        int
		says         string
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
			// More than the next lines write over.
			func(_ *disk, path string) error { return appendTo(path, strings.Repeat("x", 10_000)) },
			func(_ *disk, path string) error { return cutBefore(path, "xxxxxxxx") }, 1, "something else has written",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, d := newFaulty(t, nil)
			done := load(t, l)
			wait(t, "lines", func() bool { return l.Head().Seq > 20 })
			if err := tc.wrong(d, d.path); err != nil {
				t.Fatal(err)
			}
			wait(t, "the fault to be noticed", func() bool { return l.Err() != nil })
			at := l.Head()
			if err := l.Append(audit.Entry{}); err == nil {
				t.Error("a line was acknowledged")
			}
			lost := false
			if l.Offer(audit.Entry{}, func() { lost = true }); !lost {
				t.Error("a line was taken")
			}
			if l.Head() != at {
				t.Errorf("the log went on from %v to %v", at, l.Head())
			}
			if err := tc.right(d, d.path); err != nil {
				t.Fatal(err)
			}
			wait(t, "the log to go on", func() bool { return l.Err() == nil })
			wait(t, "more lines", func() bool { return l.Head().Seq > at.Seq+20 })
			acknowledged := done()
			closeLog(t, l)
			proof, err := verify(t, d.path)
			if err != nil {
				t.Fatalf("%+v, %v", proof, err)
			}
			all := allText(t, d.path)
			for _, id := range acknowledged {
				if !strings.Contains(all, `"`+id+`"`) {
					t.Errorf("the line %s was acknowledged and is not there", id)
				}
			}
			if !strings.Contains(all, "Resumed") || !strings.Contains(all, tc.says) {
				t.Errorf("no line says what happened: %s", tc.says)
			}
			if files, err := audit.Files(d.path); err != nil || tc.files > 0 && len(files) != tc.files {
				t.Errorf("there are files %v, %v, want %d", files, err, tc.files)
			}
		})
	}
}

// load appends from eight goroutines until the returned function is called,
// which gives what was acknowledged.
func load(t *testing.T, l *audit.Log) func() []string {
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

func cutBefore(path, text string) error {
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

// TestRotation rotates under load: the chain goes on through all files, each of
// which but the last ends with a checkpoint.
func TestRotation(t *testing.T) {
	l, d := newFaulty(t, func(c *audit.Config) { c.RotateSize = 8 << 10 })
	done := load(t, l)
	wait(t, "some files", func() bool {
		files, err := audit.Files(d.path)
		return err == nil && len(files) > 5
	})
	acknowledged := done()
	closeLog(t, l)
	if proof, err := verify(t, d.path); err != nil || proof.Proven.Seq != proof.Last.Seq-1 {
		t.Errorf("%+v, %v", proof, err)
	}
	if all := allText(t, d.path); strings.Count(all, `"RequestId"`) != len(acknowledged) {
		t.Errorf("%d lines were acknowledged and %d are there", len(acknowledged), strings.Count(all, `"RequestId"`))
	}
	files, err := audit.Files(d.path)
	if err != nil {
		t.Fatal(err)
	}
	// A file by itself is proven to who kept the head before it.
	lines := strings.Split(strings.TrimSuffix(string(read(t, files[1])), "\n"), "\n")
	if !strings.Contains(strings.Join(lines[max(0, len(lines)-20):], ""), "Checkpoint") {
		t.Error("a rotated file does not end with a checkpoint")
	}
	if err := os.Remove(files[2]); err != nil {
		t.Fatal(err)
	}
	if proof, err := verify(t, d.path); err == nil {
		t.Errorf("a file was removed and not missed: %+v", proof)
	}
}

// TestRotateByAge also shows that checkpoints come by the clock and are kept.
func TestRotateByAge(t *testing.T) {
	var kept atomic.Pointer[audit.Checkpoint]
	l, d := newFaulty(t, func(c *audit.Config) {
		c.CheckpointEvery, c.RotateAge = 10*time.Millisecond, 50*time.Millisecond
		c.Keep = func(c audit.Checkpoint, ended bool) error {
			if !ended {
				kept.Store(&c)
			}
			return nil
		}
	})
	wait(t, "three files", func() bool {
		appendLines(t, l, 1)
		files, err := audit.Files(d.path)
		return err == nil && len(files) > 2
	})
	closeLog(t, l)
	if proof, err := verify(t, d.path); err != nil || kept.Load() == nil || kept.Load().Head != proof.Proven {
		t.Errorf("%+v, %v; kept %+v", proof, err, kept.Load())
	}
}

// TestTokenAway: without signatures the log goes on and is rotated, and is
// proven again when they come back.
func TestTokenAway(t *testing.T) {
	var away atomic.Bool
	away.Store(true)
	l, d := newFaulty(t, func(c *audit.Config) {
		c.RotateSize = 4 << 10
		sign := c.Sign
		c.Sign = func(ctx context.Context, digest []byte) ([]byte, error) {
			if away.Load() {
				return nil, errors.New("the token is away")
			}
			return sign(ctx, digest)
		}
	})
	wait(t, "three files", func() bool {
		appendLines(t, l, 1)
		files, err := audit.Files(d.path)
		return err == nil && len(files) > 2
	})
	if _, err := verify(t, d.path); err == nil {
		t.Error("nothing is signed, and it is proven")
	}
	away.Store(false)
	closeLog(t, l)
	if proof, err := verify(t, d.path); err != nil || proof.Proven.Seq != proof.Last.Seq-1 {
		t.Errorf("%+v, %v", proof, err)
	}
}

// TestRotationCutOff ends the process at each step of a rotation.
func TestRotationCutOff(t *testing.T) {
	for name, cutOff := range map[string]func(path, first string) error{
		"put aside": func(path, first string) error { return os.Rename(path, first) },
		"put aside, new begun": func(path, first string) error {
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
			goesOn(t, path, 0)
			if proof, err := verify(t, path); err != nil || proof.Lines < 8 {
				t.Errorf("%+v, %v", proof, err)
			}
		})
	}
}

// isLoss reports whether AcceptLoss would help.
func isLoss(err error) bool {
	loss := new(audit.LossError)
	return errors.As(err, &loss)
}

// TestLossHint: while a file is away the log says how to go on without it; a disk
// that is full is no loss.
func TestLossHint(t *testing.T) {
	const hint = "ask the operator"
	var said buffer
	l, d := newFaulty(t, func(c *audit.Config) {
		c.Logger, c.AcceptLossHint = slog.New(slog.NewTextHandler(&said, nil)), hint
	})
	appendLines(t, l, 1)
	d.full.Store(true)
	if err := l.Append(audit.Entry{}); err == nil || isLoss(err) || strings.Contains(said.String(), hint) {
		t.Errorf("a full disk: %v, %s", err, said.String())
	}
	d.full.Store(false)
	appendLines(t, l, 1)
	if err := os.Rename(d.path, d.path+".away"); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(audit.Entry{}); !isLoss(err) || !isLoss(l.Err()) || !strings.Contains(said.String(), hint) {
		t.Errorf("a removed file: %v, %s", err, said.String())
	}
}

// TestExpect starts on logs that have, and have not, the line that was kept.
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
		"written anew": strings.Join(chain(strings.SplitAfter(rewritten, "\n")), ""),
	} {
		if err := os.WriteFile(path, []byte(strings.TrimSuffix(content, "{\"Seq\"")), 0o600); err != nil {
			t.Fatal(err)
		}
		if l, err := audit.Open(cfg); !isLoss(err) {
			t.Errorf("%s: %v", name, err)
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
	if proof, err := verifyText(v, string(read(t, path))); err != nil || proof.First.Seq != head.Seq+1 {
		t.Errorf("after an accepted loss: %+v, %v", proof, err)
	}
	if _, err := verify(t, path); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("a loss that was accepted is told to an auditor: %v", err)
	}
}

// TestRefusedStartChangesNothing: the current file is missing, and what is left
// is not touched, so that the right one can be put back.
func TestRefusedStartChangesNothing(t *testing.T) {
	path := newLog(t, 6)
	l := open(t, path)
	appendLines(t, l, 3)
	head, err := l.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	// As if it had been rotated after the third process.
	rotated := path + ".0000000000000001"
	if err := os.Rename(path, rotated); err != nil {
		t.Fatal(err)
	}
	whole := read(t, rotated)
	cfg := config(path)
	cfg.Expect = audit.Head{Seq: head.Seq + 5, Hash: head.Hash}
	if _, err := audit.Open(cfg); !isLoss(err) || !strings.Contains(err.Error(), "its end is missing") {
		t.Errorf("Open: %v", err)
	}
	if files, err := audit.Files(path); err != nil || len(files) != 1 || files[0] != rotated || string(read(t, rotated)) != string(whole) {
		t.Errorf("a refused start has changed something: %v, %v", files, err)
	}
	cfg.AcceptLoss = true
	closeLog(t, openConfig(t, cfg))
	if string(read(t, rotated)) != string(whole) {
		t.Error("an accepted loss has changed a file that was in order")
	}
}

// TestEnded adds a line to a log that was closed, with the right hash: anybody
// can who can write the file.
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
	if _, err := audit.Open(cfg); err == nil || !strings.Contains(err.Error(), "goes on") {
		t.Errorf("a log that goes on without that being kept: %v", err)
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
		t.Errorf("a line that was added: %v", err)
	}
	// After a crash the same cannot be known, and the log says so.
	cfg.Ended = false
	l = openConfig(t, cfg)
	closeLog(t, l)
	if text := string(read(t, path)); !strings.Contains(text, `"Unwitnessed":1`) {
		t.Errorf("the log does not say that a line was not witnessed:\n%s", text)
	}
}

// TestBroken opens a log whose chain is broken before its end: by a power loss
// or by somebody. It is not gone on with but by the operator's word.
func TestBroken(t *testing.T) {
	path := newLog(t, 6)
	text := string(read(t, path))
	if err := os.WriteFile(path, []byte(strings.Replace(text, "Sign", "Sigm", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := audit.Open(config(path)); !isLoss(err) || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("Open: %v", err)
	}
	cfg := config(path)
	cfg.AcceptLoss = true
	closeLog(t, openConfig(t, cfg))
	if text := string(read(t, path)); !strings.Contains(text, "accepted by the operator") {
		t.Errorf("the log does not say what was lost:\n%s", text)
	}
}

// TestAbandonedEnd damages what a file has behind the last line that was safe:
// nobody was answered on it, and the log is whole without it. What was safe must
// not be damaged.
func TestAbandonedEnd(t *testing.T) {
	l, d := newFaulty(t, nil)
	appendLines(t, l, 3)
	safe := len(read(t, d.path))
	d.noFlush.Store(true)
	if err := l.Append(audit.Entry{RequestId: "unsafe"}); err == nil {
		t.Fatal("acknowledged")
	}
	d.noFlush.Store(false)
	wait(t, "the next file", func() bool { return l.Err() == nil })
	appendLines(t, l, 1)
	closeLog(t, l)
	first := d.path + ".0000000000000001"
	proof, err := verify(t, d.path)
	if err != nil || proof.Void != 1 {
		t.Fatalf("%+v, %v", proof, err)
	}
	content := read(t, first)
	for at, want := range map[int]bool{safe + 20: true, safe - 20: false} {
		damaged := []byte(string(content))
		damaged[at] ^= 1
		if err := os.WriteFile(first, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if proof, err := verify(t, d.path); (err == nil) != want {
			t.Errorf("damage at byte %d of %d safe ones: %+v, %v", at, safe, proof, err)
		}
	}
	if missing, err := l.Missing(1, []string{"unsafe"}); err != nil || len(missing) != 1 {
		t.Errorf("a line that counts for nothing counts: %v, %v", missing, err)
	}
}

// TestFailingFlushMakesNoFiles: a disk that does not flush is tried once a
// second, however many ask.
func TestFailingFlushMakesNoFiles(t *testing.T) {
	l, d := newFaulty(t, nil)
	appendLines(t, l, 1)
	d.noFlush.Store(true)
	for range 1000 {
		if err := l.Append(audit.Entry{}); err == nil {
			t.Fatal("acknowledged")
		}
	}
	if files, err := audit.Files(d.path); err != nil || len(files) > 2 || d.opened.Load() > 3 {
		t.Errorf("there are %d files, of %d that were made, %v", len(files), d.opened.Load(), err)
	}
}

// TestMissing looks for lines in all files from one on.
func TestMissing(t *testing.T) {
	l, _ := newFaulty(t, func(c *audit.Config) { c.RotateSize = 1 << 10 })
	for n := range 50 {
		if err := l.Append(audit.Entry{RequestId: fmt.Sprintf("id-%d", n)}); err != nil {
			t.Fatal(err)
		}
	}
	missing, err := l.Missing(20, []string{"id-2", "id-45", "id-49", "id-50"})
	if want := "[id-2 id-50]"; err != nil || fmt.Sprint(missing) != want {
		t.Errorf("missing from line 20 on: %v, %v, want %s", missing, err, want)
	}
}

// TestOffer shows that lines nobody waits for are written too.
func TestOffer(t *testing.T) {
	l, d := newFaulty(t, nil)
	l.Offer(audit.Entry{RequestId: "offered"}, func() { t.Error("not taken") })
	closeLog(t, l)
	if !strings.Contains(allText(t, d.path), "offered") {
		t.Error("not written")
	}
}

// TestWarnFree says once that the disk is filling up.
func TestWarnFree(t *testing.T) {
	var said buffer
	l, _ := newFaulty(t, func(c *audit.Config) {
		c.WarnFree, c.CheckpointEvery = 1<<62, 5*time.Millisecond
		c.Logger = slog.New(slog.NewTextHandler(&said, nil))
	})
	wait(t, "the warning", func() bool { return strings.Contains(said.String(), "filling up") })
	before := l.Head().Seq
	wait(t, "more checkpoints", func() bool {
		appendLines(t, l, 1)
		return l.Head().Seq > before+10
	})
	if n := strings.Count(said.String(), "filling up"); n != 1 {
		t.Errorf("it is said %d times", n)
	}
}

// A buffer can be read while it is written.
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
