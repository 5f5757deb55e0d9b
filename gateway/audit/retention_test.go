package audit_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

const day = 24 * time.Hour

// retaining returns the Config of a log that keeps files for 30 days, and the errors and warnings
// that it logs.
func retaining(path string) (audit.Config, *buffer) {
	cfg, logged := config(path), new(buffer)
	cfg.Key, cfg.RetainAge = &key.PublicKey, 30*day
	cfg.Logger = slog.New(slog.NewTextHandler(logged, &slog.HandlerOptions{Level: slog.LevelWarn}))
	return cfg, logged
}

// sleep lets time pass in a bubble of synctest, and then waits for the work that is due.
func sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// pass opens a log, lets time pass in a bubble of synctest, and closes the log.
func pass(t *testing.T, cfg audit.Config, d time.Duration) {
	t.Helper()
	l := openConfig(t, cfg)
	sleep(d)
	closeLog(t, l)
}

// twoFiles builds a log of two rotated files, whose lines have the given ages, and a current one. A
// negative age is in the future.
func twoFiles(t *testing.T, oldest, second, current time.Duration) (b *builder, first string) {
	t.Helper()
	b = build(t)
	now := time.Now().UTC()
	b.time = now.Add(-oldest)
	b.requests(5).checkpoint()
	first = b.rotate()
	b.time = now.Add(-second)
	b.requests(5).checkpoint()
	b.rotate()
	b.time = now.Add(-current)
	b.requests(5).checkpoint().end()
	return b, first
}

// deletions returns the number of deleted events in a log.
func deletions(t *testing.T, path string) int {
	t.Helper()
	return strings.Count(allText(t, path), `"Kind":"deleted"`)
}

// TestRetainSize appends lines to a log whose files may have 16 KiB. It deletes the oldest files, and
// what is left can be verified and continued.
func TestRetainSize(t *testing.T) {
	var kept atomic.Pointer[audit.Head]
	l, d := openFaulty(t, func(c *audit.Config) {
		c.RotateSize, c.RetainSize, c.Key = 4<<10, 16<<10, &key.PublicKey
		c.Keep = func(c audit.Checkpoint, _ bool) error {
			kept.Store(&c.Head)
			return nil
		}
	})
	oldest := make(map[string]bool)
	wait(t, "deletion of five files", func() bool {
		appendLines(t, l, 1)
		files, err := audit.Files(d.path)
		if err == nil {
			oldest[files[0]] = true
		}
		return len(oldest) > 5
	})
	wait(t, "total size within the limit", func() bool {
		appendLines(t, l, 1) // retention looks after each rotation
		return totalSize(t, d.path) <= 16<<10
	})
	closeLog(t, l)
	result, err := verify(t, d.path)
	if err != nil || result.Deleted == nil || result.Deleted.Seq+1 != result.First.Seq {
		t.Fatalf("Verify: got %+v, %v, want the lines after the last deleted one", result, err)
	}
	cfg := config(d.path)
	cfg.Expect, cfg.Ended = *kept.Load(), true
	l = openConfig(t, cfg)
	if missing, err := l.Missing(1, []string{"none"}); err != nil || len(missing) != 1 {
		t.Errorf("Missing: got %v, %v, want the RequestId", missing, err)
	}
	closeLog(t, l)
	if again, err := verify(t, d.path); err != nil || again.First != result.First {
		t.Errorf("Verify of the continued log: got %+v, %v, want the lines from %d on", again, err, result.First.Seq)
	}
}

// totalSize returns the number of bytes in all files of a log. A file that is deleted in the meantime
// has none.
func totalSize(t *testing.T, path string) (size int64) {
	t.Helper()
	files, err := audit.Files(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if info, err := os.Stat(f); err == nil {
			size += info.Size()
		}
	}
	return size
}

// TestRetainAge lets three hours pass. The log must keep all lines of the last hour, and delete those
// that are older by more than a file's span.
func TestRetainAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "audit.log")
		cfg, logged := retaining(path)
		cfg.CheckpointEvery, cfg.RotateAge, cfg.RetainAge = time.Minute, 10*time.Minute, time.Hour
		l := openConfig(t, cfg)
		for range 36 {
			appendLines(t, l, 3)
			sleep(5 * time.Minute)
		}
		young, oldest := 0, time.Duration(0)
		if err := audit.Read(strings.NewReader(allText(t, path)), func(line audit.Line) error {
			age := time.Since(line.Time())
			if oldest = max(oldest, age); age < time.Hour && line.Entry != nil {
				young++
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if young != 11*3 || oldest > 90*time.Minute {
			t.Errorf("got %d requests of the last hour, and a line %v old, want all 33, and at most 1.5 h", young, oldest)
		}
		closeLog(t, l)
		if result, err := verify(t, path); err != nil || result.Deleted == nil || result.Proven.Seq != result.Last.Seq-1 {
			t.Errorf("Verify: got %+v, %v, want deleted lines, and all others proven", result, err)
		}
		if logged.String() != "" {
			t.Errorf("the log reported\n%s", logged)
		}
	})
}

// TestRetainClock deletes only files that are old by every measure: a clock that is wrong deletes
// nothing.
func TestRetainClock(t *testing.T) {
	for name, tc := range map[string]struct {
		oldest, second, current time.Duration // the ages of the lines in each file
		change                  func(*audit.Config)
		deletes                 bool
	}{
		"old":                                  {oldest: 40 * day, second: 20 * day, deletes: true},
		"not old enough":                       {oldest: 29 * day, second: 20 * day},
		"the clock is a year ahead":            {oldest: 385 * day, second: 380 * day, current: 365 * day},
		"the clock was a year ahead":           {oldest: 20 * day, second: 10 * day, current: -365 * day},
		"the clock was 8 days ahead":           {oldest: 25 * day, second: -8 * day, current: 0},
		"the oldest lines are from the future": {oldest: -day, second: 60 * day, current: 0},
		"the clock is not trusted": {oldest: 40 * day, second: 20 * day,
			change: func(c *audit.Config) { c.Trusted = func() bool { return false } }},
		"the clock is trusted": {oldest: 40 * day, second: 20 * day, deletes: true,
			change: func(c *audit.Config) { c.Trusted = func() bool { return true } }},
		"too large, but the clock is not trusted": {oldest: day, second: day,
			change: func(c *audit.Config) { c.RetainSize, c.Trusted = 1, func() bool { return false } }},
		"too large": {oldest: day, second: day, deletes: true,
			change: func(c *audit.Config) { c.RetainSize = 1 }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, first := twoFiles(t, tc.oldest, tc.second, tc.current)
				cfg, logged := retaining(b.path)
				if tc.change != nil {
					tc.change(&cfg)
				}
				pass(t, cfg, time.Hour)
				if isThere(t, first) == tc.deletes {
					t.Errorf("deleted: got %v, want %v", !tc.deletes, tc.deletes)
				}
				if result, err := verify(t, b.path); err != nil || (result.Deleted != nil) != tc.deletes {
					t.Errorf("Verify: got %+v, %v, want nil", result, err)
				}
				if logged.String() != "" {
					t.Errorf("the log reported\n%s", logged)
				}
			})
		})
	}
}

// TestRetainVerifies makes the oldest file one that does not verify. It must stay, the log must
// report that once, and the file must be deleted once it is right again.
func TestRetainVerifies(t *testing.T) {
	for name, tc := range map[string]struct {
		damage func(t *testing.T, b *builder, first, second string)
		want   string
	}{
		"a line was changed": {func(t *testing.T, _ *builder, first, _ string) {
			replaceIn(t, first, "r-3", "r-4")
		}, "line 4: a line was changed"},
		"the first line was changed": {func(t *testing.T, _ *builder, first, _ string) {
			replaceIn(t, first, `"Seq":1,`, `"Seq":9,`)
		}, "line 2"},
		"the end is missing": {func(t *testing.T, _ *builder, first, _ string) {
			content := read(t, first)
			write(t, first, content[:strings.LastIndex(string(content), "\n{")+1])
		}, "line 6 is missing"},
		"the next file was changed": {func(t *testing.T, _ *builder, _, second string) {
			replaceIn(t, second, `"Seq":7,`, `"Seq":8,`)
		}, "line 7 is missing"},
		"a signature was changed": {func(t *testing.T, _ *builder, first, second string) {
			replaceIn(t, first, `"Signature":"ME`, `"Signature":"MA`)
		}, "does not match the public key"},
		"a compressed file is cut off": {func(t *testing.T, _ *builder, first, _ string) {
			compressed := compress(t, first)
			content := read(t, compressed)
			write(t, compressed, content[:len(content)-9])
		}, "cut off or damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, first := twoFiles(t, 40*day, 20*day, 0)
				files, err := audit.Files(b.path)
				if err != nil {
					t.Fatal(err)
				}
				saved := [][]byte{read(t, files[0]), read(t, files[1])}
				tc.damage(t, b, files[0], files[1])
				cfg, logged := retaining(b.path)
				l := openConfig(t, cfg)
				sleep(time.Hour)
				if !isThere(t, first) && !isThere(t, first+".gz") || deletions(t, b.path) > 0 {
					t.Error("the log deleted a file that does not verify")
				}
				if n := strings.Count(logged.String(), "level=ERROR"); n != 1 || !strings.Contains(logged.String(), tc.want) {
					t.Errorf("got %d errors, want one with %q:\n%s", n, tc.want, logged)
				}
				for i, content := range saved {
					write(t, files[i], content)
				}
				sleep(time.Hour)
				closeLog(t, l)
				if isThere(t, first) || isThere(t, first+".gz") || deletions(t, b.path) != 1 {
					t.Errorf("the log did not delete the right file, which is back:\n%s", logged)
				}
				if result, err := verify(t, b.path); err != nil || result.Deleted == nil {
					t.Errorf("Verify: got %+v, %v, want a deletion", result, err)
				}
			})
		})
	}
}

func write(t *testing.T, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func replaceIn(t *testing.T, name, old, replacement string) {
	t.Helper()
	content := string(read(t, name))
	if !strings.Contains(content, old) {
		t.Fatalf("%s lacks %q", name, old)
	}
	write(t, name, []byte(strings.Replace(content, old, replacement, 1)))
}

// TestRetainBeginning begins with a log whose first file was moved away. Deleting the next one would
// hide that, so the log does it only if the operator accepts the loss, and records that.
func TestRetainBeginning(t *testing.T) {
	for _, accept := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			b, first := twoFiles(t, 50*day, 40*day, 0)
			remove(t, first)
			second := b.path + ".0000000000000007"
			cfg, logged := retaining(b.path)
			cfg.AcceptLoss, cfg.AcceptLossHint = accept, "ask the operator"
			pass(t, cfg, time.Hour)
			text := allText(t, b.path)
			if isThere(t, second) == accept || strings.Contains(text, `"Lost":"accepted by the operator at start: lines 1 to 6 are missing"`) != accept {
				t.Errorf("accepted %v: the file exists: %v, and the log is\n%s", accept, !accept, text)
			}
			if !accept && (strings.Count(logged.String(), "level=ERROR") != 1 || !strings.Contains(logged.String(), "ask the operator")) {
				t.Errorf("got the messages\n%swant one error with the hint", logged)
			}
			if result, err := verify(t, b.path); (err == nil) != accept {
				t.Errorf("accepted %v: Verify: got %+v, %v", accept, result, err)
			}
		})
	}
}

// TestRetainUnproven leaves a file alone until a checkpoint covers it.
func TestRetainUnproven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := build(t)
		b.time = b.time.Add(-40 * day)
		b.requests(5)
		first := b.rotate()
		b.time = time.Now().UTC()
		b.requests(1).end()
		cfg, logged := retaining(b.path)
		sign := cfg.Sign
		var away atomic.Bool
		away.Store(true)
		cfg.Sign = func(ctx context.Context, digest []byte) ([]byte, error) {
			if away.Load() {
				return nil, errors.New("the token is away")
			}
			return sign(ctx, digest)
		}
		l := openConfig(t, cfg)
		sleep(time.Hour)
		if !isThere(t, first) || strings.Contains(logged.String(), "level=ERROR") {
			t.Errorf("without a checkpoint: got the messages\n%swant the file, and no error", logged)
		}
		away.Store(false)
		sleep(time.Hour)
		closeLog(t, l)
		if result, err := verify(t, b.path); isThere(t, first) || err != nil || result.Deleted == nil {
			t.Errorf("with checkpoints: got %+v, %v, want the file deleted", result, err)
		}
	})
}

// TestRetainInterrupted interrupts a deletion at each of its steps: after the event, after the
// checkpoint, and after the removal. Another process completes it.
func TestRetainInterrupted(t *testing.T) {
	for name, tc := range map[string]struct {
		written func(b *builder, first string, end audit.Head) // before the interruption
		removed bool
	}{
		"before the event": {written: func(*builder, string, audit.Head) {}},
		"after the event":  {written: func(b *builder, first string, end audit.Head) { b.deleted(first, end) }},
		"after the checkpoint": {written: func(b *builder, first string, end audit.Head) {
			b.deleted(first, end).checkpoint()
		}},
		"after the removal": {removed: true, written: func(b *builder, first string, end audit.Head) {
			b.deleted(first, end).checkpoint()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := build(t)
				b.time = b.time.Add(-50 * day)
				b.requests(5).checkpoint()
				end, first := b.head, b.rotate()
				b.time = b.time.Add(10 * day)
				b.requests(5).checkpoint()
				second := b.rotate()
				b.time = time.Now().UTC()
				b.requests(1).checkpoint()
				tc.written(b, first, end)
				b.end()
				if tc.removed {
					remove(t, first)
				}
				if result, err := verify(t, b.path); err != nil || (result.Deleted != nil) != tc.removed {
					t.Errorf("Verify after the interruption: got %+v, %v, want nil", result, err)
				}
				cfg, logged := retaining(b.path)
				pass(t, cfg, time.Hour)
				result, err := verify(t, b.path)
				if err != nil || isThere(t, first) || isThere(t, second) || result.First.Seq != 13 {
					t.Errorf("Verify: got %+v, %v, want the lines from 13 on:\n%s", result, err, logged)
				}
			})
		})
	}
}

// TestRetainFails makes each step of a deletion fail for a while. The file stays until all steps
// succeed, and only one event names it.
func TestRetainFails(t *testing.T) {
	reason := errors.New("it fails")
	for name, inject := range map[string]func(cfg *audit.Config, fails func() bool){
		"signing": func(cfg *audit.Config, fails func() bool) {
			sign := cfg.Sign
			cfg.Sign = func(ctx context.Context, digest []byte) ([]byte, error) {
				if fails() {
					return nil, reason
				}
				return sign(ctx, digest)
			}
		},
		"storing the head": func(cfg *audit.Config, fails func() bool) {
			cfg.Keep = func(audit.Checkpoint, bool) error {
				if fails() {
					return reason
				}
				return nil
			}
		},
		"removing": func(cfg *audit.Config, fails func() bool) {
			cfg.SetRemove(func(path string) error {
				if fails() {
					return reason
				}
				return os.Remove(path)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, first := twoFiles(t, 40*day, 20*day, 0)
				cfg, logged := retaining(b.path)
				var works atomic.Bool
				inject(&cfg, func() bool { return !works.Load() })
				l := openConfig(t, cfg)
				sleep(time.Hour)
				if !isThere(t, first) {
					t.Error("the log deleted the file although a step failed")
				}
				if result, err := verify(t, b.path); err != nil || result.Deleted != nil {
					t.Errorf("Verify in between: got %+v, %v, want nil", result, err)
				}
				works.Store(true)
				appendLines(t, l, 1) // only a further line gets another checkpoint
				sleep(2 * time.Hour)
				closeLog(t, l)
				if result, err := verify(t, b.path); isThere(t, first) || err != nil || result.Deleted == nil {
					t.Errorf("Verify: got %+v, %v, want the file deleted:\n%s", result, err, logged)
				}
				if n := deletions(t, b.path); n != 1 {
					t.Errorf("got %d deleted events, want 1", n)
				}
				if n := strings.Count(logged.String(), "deleting the audit log's oldest file failed"); n != 1 {
					t.Errorf("got %d warnings about the deletion, want 1:\n%s", n, logged)
				}
			})
		})
	}
}

// TestRetainCompressed deletes compressed files, and the unfinished output of gzip with its input.
func TestRetainCompressed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, first := twoFiles(t, 50*day, 40*day, 0)
		second := b.path + ".0000000000000007"
		compress(t, first)
		write(t, second+".gz", gzipped(t, read(t, second))[:30])
		cfg, logged := retaining(b.path)
		pass(t, cfg, time.Hour)
		files, err := filepath.Glob(b.path + "*")
		if err != nil || !slices.Equal(files, []string{b.path}) {
			t.Errorf("files: got %v, %v, want only the current one:\n%s", files, err, logged)
		}
		if result, err := verify(t, b.path); err != nil || result.Deleted == nil || result.Deleted.Seq != 12 {
			t.Errorf("Verify: got %+v, %v, want line 12 deleted", result, err)
		}
	})
}

// TestRetainNeedsKey refuses to open a log that could not verify what it deletes.
func TestRetainNeedsKey(t *testing.T) {
	cfg := config(filepath.Join(t.TempDir(), "audit.log"))
	cfg.RetainSize = 1 << 20
	if l, err := audit.Open(cfg); err == nil || !strings.Contains(err.Error(), "a key for checkpoints") {
		t.Errorf("Open: got %v, want an error about the key", err)
		if err == nil {
			closeLog(t, l)
		}
	}
}
