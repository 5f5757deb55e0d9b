package audit_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

// key signs the checkpoints in tests. A gateway uses a key in the token.
var key = func() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}()

// config returns the Config of a log with checkpoints, but without periodic ones.
func config(path string) audit.Config {
	return audit.Config{Path: path, CheckpointEvery: time.Hour, AppendTimeout: time.Minute,
		Sign: func(_ context.Context, digest []byte) ([]byte, error) {
			return ecdsa.SignASN1(rand.Reader, key, digest)
		}}
}

func open(t *testing.T, path string) *audit.Log {
	t.Helper()
	return openConfig(t, config(path))
}

func openConfig(t *testing.T, cfg audit.Config) *audit.Log {
	t.Helper()
	l, err := audit.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func appendLines(t *testing.T, l *audit.Log, n int) {
	t.Helper()
	for i := range n {
		if err := l.Append(audit.Entry{Time: time.Now(), RequestId: fmt.Sprint(i),
			Action: "AsymmetricSign"}); err != nil {
			t.Fatal(err)
		}
	}
}

func closeLog(t *testing.T, l *audit.Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// verify verifies all files of a log with the key.
func verify(t *testing.T, path string) (audit.VerifyResult, error) {
	t.Helper()
	paths, err := audit.Files(path)
	if err != nil {
		t.Fatal(err)
	}
	var files []audit.File
	for _, p := range paths {
		files = append(files, audit.File{Name: filepath.Base(p), Reader: audit.Decompress(p, bytes.NewReader(read(t, p)))})
	}
	return audit.Verifier{Key: &key.PublicKey}.Verify(files...)
}

// verifyText verifies the content of one file.
func verifyText(v audit.Verifier, text string) (audit.VerifyResult, error) {
	return v.Verify(audit.File{Name: "audit.log", Reader: strings.NewReader(text)})
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// newLog creates a log of n lines in two runs. Each run adds a checkpoint when it ends.
func newLog(t *testing.T, n int) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "audit.log")
	for _, part := range []int{n / 2, n - n/2} {
		l := open(t, path)
		appendLines(t, l, part)
		closeLog(t, l)
	}
	return path
}

func TestChain(t *testing.T) {
	path := newLog(t, 10)
	result, err := verify(t, path)
	if err != nil || result.Lines != 12 || result.Last.Seq != 12 || result.Proven.Seq != 11 || result.Checkpoints != 2 {
		t.Errorf("Verify: got %+v, %v, want 12 lines, proven up to 11", result, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the log's mode: got %v, %v, want -rw-------", info.Mode(), err)
	}
}

// TestParallel appends from many goroutines and checks that a line is in the file once Append has
// returned.
func TestParallel(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, path)
	var writers sync.WaitGroup
	for w := range 64 {
		writers.Go(func() {
			id := fmt.Sprintf("writer %d", w)
			if err := l.Append(audit.Entry{RequestId: id}); err != nil {
				t.Error(err)
			}
			if !bytes.Contains(read(t, path), []byte(`"`+id+`"`)) {
				t.Errorf("the file lacks the line of %q", id)
			}
		})
	}
	writers.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if result, err := verify(t, path); err != nil || result.Proven.Seq != 64 {
		t.Errorf("Verify: got %+v, %v, want 64 lines proven", result, err)
	}
}

// TestTorn cuts the log at every byte, as a crash can, and continues it.
func TestTorn(t *testing.T) {
	whole := read(t, newLog(t, 3))
	for part := range 8 {
		t.Run(fmt.Sprint(part), func(t *testing.T) {
			t.Parallel() // the test waits mostly for the disk
			for cut := part; cut < len(whole); cut += 8 {
				if cut < len(whole)/2 && cut%5 != 0 {
					continue // the second half covers the same cases; this saves time
				}
				path := filepath.Join(t.TempDir(), "audit.log")
				if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
					t.Fatal(err)
				}
				checkContinues(t, path, cut)
			}
		})
	}
}

// TestRecoveryCutOff reproduces a crash during the recovery from a crash: it cuts the log within
// the line that the recovery adds, and opens it again.
func TestRecoveryCutOff(t *testing.T) {
	whole := read(t, newLog(t, 3))
	torn := whole[:len(whole)-40] // within the last checkpoint
	path := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(path, torn, 0o600); err != nil {
		t.Fatal(err)
	}
	closeLog(t, open(t, path))
	recovered := read(t, path)
	for cut := len(torn); cut <= len(recovered); cut++ {
		if err := os.WriteFile(path, recovered[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		checkContinues(t, path, cut)
	}
}

// checkContinues opens a log that was cut, adds a line and verifies the log.
func checkContinues(t *testing.T, path string, cut int) {
	t.Helper()
	l, err := audit.Open(config(path))
	if err != nil {
		t.Errorf("Open after a cut at %d: got %v, want nil", cut, err)
		return
	}
	appendLines(t, l, 1)
	closeLog(t, l)
	if result, err := verify(t, path); err != nil || result.Proven.Seq < 1 {
		t.Errorf("Verify after a cut at %d: got %+v, %v, want proven lines", cut, result, err)
	}
}

func TestClosed(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "audit.log"))
	for range 2 {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := l.Append(audit.Entry{}); err == nil {
		t.Error("Append to a closed log: got nil, want an error")
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.log")
	if err := os.WriteFile(path, []byte("something else\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("something else\nand more\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := audit.Open(config(path)); err == nil {
		t.Error("Open of a file that is not an audit log: got nil, want an error")
		l.Close()
	}
	if _, err := audit.Open(config(filepath.Join(dir, "none", "audit.log"))); err == nil {
		t.Error("Open in a directory that does not exist: got nil, want an error")
	}
}

// TestDevice checks that Open refuses a device, which cannot be rotated.
func TestDevice(t *testing.T) {
	if _, err := audit.Open(config("/dev/full")); err == nil || !strings.Contains(err.Error(), "regular") {
		t.Errorf("Open of /dev/full: got %v, want \"not a regular file\"", err)
	}
}

func BenchmarkAppend(b *testing.B) {
	l, err := audit.Open(config(filepath.Join(b.TempDir(), "audit.log")))
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := l.Append(signing); err != nil {
				b.Error(err)
			}
		}
	})
}
