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

// key signs the checkpoints of tests. In a gateway it is one in the token.
var key = func() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}()

// config is of a log with checkpoints, but none by the clock.
func config(path string) audit.Config {
	return audit.Config{Path: path, CheckpointEvery: time.Hour, Sign: func(_ context.Context, digest []byte) ([]byte, error) {
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
		if err := l.Append(audit.Entry{Time: time.Now(), RequestId: fmt.Sprint(i), Action: "AsymmetricSign"}); err != nil {
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

// verify holds all files of a log against the key.
func verify(t *testing.T, path string) (audit.VerifyResult, error) {
	t.Helper()
	paths, err := audit.Files(path)
	if err != nil {
		t.Fatal(err)
	}
	var files []audit.File
	for _, p := range paths {
		files = append(files, audit.File{Name: filepath.Base(p), Reader: bytes.NewReader(read(t, p))})
	}
	return audit.Verifier{Key: &key.PublicKey}.Verify(files...)
}

// verifyText does the same for one file's content.
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

// newLog makes a log of n lines, by two processes' worth of opening, each of
// which adds a checkpoint when it ends.
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
	proof, err := verify(t, path)
	if err != nil || proof.Lines != 12 || proof.Last.Seq != 12 || proof.Proven.Seq != 11 || proof.Checkpoints != 2 {
		t.Errorf("Verify: %+v, %v, want 12 lines, proven up to 11", proof, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the log has mode %v, %v", info.Mode(), err)
	}
}

// TestParallel appends from many goroutines; a line that Append has returned
// for is in the file.
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
				t.Errorf("the line of %s is not in the file", id)
			}
		})
	}
	writers.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if proof, err := verify(t, path); err != nil || proof.Proven.Seq != 64 {
		t.Errorf("Verify: %+v, %v, want 64 lines proven", proof, err)
	}
}

// TestTorn cuts the log at every byte, as a crash can, and goes on.
func TestTorn(t *testing.T) {
	whole := read(t, newLog(t, 3))
	for part := range 8 {
		t.Run(fmt.Sprint(part), func(t *testing.T) {
			t.Parallel() // it waits for the disk
			for cut := part; cut < len(whole); cut += 8 {
				if cut < len(whole)/2 && cut%5 != 0 {
					continue // the same as in the second half, and it takes its time
				}
				path := filepath.Join(t.TempDir(), "audit.log")
				if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
					t.Fatal(err)
				}
				goesOn(t, path, cut)
			}
		})
	}
}

// TestRecoveryCutOff crashes in the recovery from a crash: the log is cut within
// the line that recovery adds, and opened again.
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
		goesOn(t, path, cut)
	}
}

// goesOn opens a log that was cut, adds a line and verifies.
func goesOn(t *testing.T, path string, cut int) {
	t.Helper()
	l, err := audit.Open(config(path))
	if err != nil {
		t.Errorf("cut at %d: %v", cut, err)
		return
	}
	appendLines(t, l, 1)
	closeLog(t, l)
	if proof, err := verify(t, path); err != nil || proof.Proven.Seq < 1 {
		t.Errorf("cut at %d: %+v, %v", cut, proof, err)
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
		t.Error("Append to a closed log succeeded")
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
		t.Error("Open took a file that is no audit log")
		l.Close()
	}
	if _, err := audit.Open(config(filepath.Join(dir, "none", "audit.log"))); err == nil {
		t.Error("Open made a directory")
	}
}

// TestDevice refuses what is no file: it could not be put aside.
func TestDevice(t *testing.T) {
	if _, err := audit.Open(config("/dev/full")); err == nil || !strings.Contains(err.Error(), "regular") {
		t.Errorf("Open took /dev/full: %v", err)
	}
}

func BenchmarkAppend(b *testing.B) {
	l, err := audit.Open(config(filepath.Join(b.TempDir(), "audit.log")))
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := l.Append(audit.Entry{Time: time.Now(), RequestId: "id", Action: "AsymmetricSign"}); err != nil {
				b.Error(err)
			}
		}
	})
}
