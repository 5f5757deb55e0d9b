package audit_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

func open(t *testing.T, path string) *audit.Log {
	t.Helper()
	l, err := audit.Open(path)
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

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// newLog makes a log of n lines, by two processes' worth of opening.
func newLog(t *testing.T, n int) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "audit.log")
	for _, part := range []int{n / 2, n - n/2} {
		l := open(t, path)
		appendLines(t, l, part)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func TestChain(t *testing.T) {
	path := newLog(t, 10)
	proof, err := audit.Verify(bytes.NewReader(read(t, path)))
	if err != nil || proof.Lines != 10 || proof.Seq != 10 {
		t.Errorf("Verify: %+v, %v, want 10 lines", proof, err)
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
	if proof, err := audit.Verify(bytes.NewReader(read(t, path))); err != nil || proof.Lines != 64 {
		t.Errorf("Verify: %+v, %v, want 64 lines", proof, err)
	}
}

// TestForged edits, removes, moves and adds lines.
func TestForged(t *testing.T) {
	lines := strings.SplitAfter(strings.TrimSuffix(string(read(t, newLog(t, 6))), "\n"), "\n")
	lines[5] += "\n"
	for name, forge := range map[string]func([]string) []string{
		"edited":     func(l []string) []string { l[2] = strings.Replace(l[2], "Sign", "Sigm", 1); return l },
		"removed":    func(l []string) []string { return slices.Delete(l, 2, 3) },
		"first gone": func(l []string) []string { return l[1:] },
		"moved":      func(l []string) []string { l[2], l[3] = l[3], l[2]; return l },
		"doubled":    func(l []string) []string { return slices.Insert(l, 3, l[2]) },
		"inserted":   func(l []string) []string { return slices.Insert(l, 3, "not a line\n") },
		"CR added":   func(l []string) []string { l[2] = strings.TrimSuffix(l[2], "\n") + "\r\n"; return l },
		"torn off":   func(l []string) []string { l[5] = l[5][:20]; return l },
	} {
		forged := strings.Join(forge(slices.Clone(lines)), "")
		if proof, err := audit.Verify(strings.NewReader(forged)); err == nil {
			t.Errorf("%s: Verify found nothing: %+v", name, proof)
		}
	}
	forged := slices.Clone(lines)
	forged[2] = strings.Replace(forged[2], "Sign", "Sigm", 1)
	if proof, err := audit.Verify(strings.NewReader(strings.Join(forged, ""))); proof.Seq != 3 || err == nil || !strings.Contains(err.Error(), "line 4") {
		t.Errorf("Verify with line 3 edited: %+v, %v, want the break at line 4", proof, err)
	}
}

// TestTorn cuts the log at every byte, as a crash can, and goes on.
func TestTorn(t *testing.T) {
	whole := read(t, newLog(t, 3))
	for cut := range whole {
		path := filepath.Join(t.TempDir(), "audit.log")
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := audit.Open(path)
		if err != nil {
			t.Errorf("cut at %d: %v", cut, err)
			continue
		}
		appendLines(t, l, 1)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if proof, err := audit.Verify(bytes.NewReader(read(t, path))); err != nil {
			t.Errorf("cut at %d: %+v, %v", cut, proof, err)
		}
	}
}

// TestRecoveryCutOff crashes in the recovery from a crash: the log is cut within
// the line that recovery adds, and opened again.
func TestRecoveryCutOff(t *testing.T) {
	whole := read(t, newLog(t, 3))
	torn := whole[:len(whole)-40]
	path := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(path, torn, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	recovered := read(t, path)
	for cut := len(torn); cut <= len(recovered); cut++ {
		if err := os.WriteFile(path, recovered[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := audit.Open(path)
		if err != nil {
			t.Errorf("recovery cut at %d: %v", cut-len(torn), err)
			continue
		}
		appendLines(t, l, 1)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if proof, err := audit.Verify(bytes.NewReader(read(t, path))); err != nil {
			t.Errorf("recovery cut at %d: %+v, %v", cut-len(torn), proof, err)
		}
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
	if l, err := audit.Open(path); err == nil {
		t.Error("Open took a file that is no audit log")
		l.Close()
	}
	if _, err := audit.Open(filepath.Join(dir, "none", "audit.log")); err == nil {
		t.Error("Open made a directory")
	}
}

// TestDiskFull appends to a device that is always full: no line, no success.
func TestDiskFull(t *testing.T) {
	l, err := audit.Open("/dev/full")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Append(audit.Entry{RequestId: "1"}); err == nil {
		t.Error("Append to a full disk succeeded")
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func BenchmarkAppend(b *testing.B) {
	l, err := audit.Open(filepath.Join(b.TempDir(), "audit.log"))
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
