package audit_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

// linesOf returns a log of n entries as lines with their newlines.
func linesOf(t *testing.T, n int) []string {
	t.Helper()
	return strings.SplitAfter(strings.TrimSuffix(string(read(t, newLog(t, n))), "\n"), "\n")
}

// TestForged edits, removes, moves and adds lines without access to the key.
func TestForged(t *testing.T) {
	lines := linesOf(t, 6)
	lines[len(lines)-1] += "\n"
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, forge := range map[string]func([]string) []string{
		"edited":     func(l []string) []string { l[2] = strings.Replace(l[2], "Sign", "Sigm", 1); return l },
		"removed":    func(l []string) []string { return slices.Delete(l, 2, 3) },
		"first gone": func(l []string) []string { return l[1:] },
		"moved":      func(l []string) []string { l[1], l[2] = l[2], l[1]; return l },
		"doubled":    func(l []string) []string { return slices.Insert(l, 3, l[2]) },
		"inserted":   func(l []string) []string { return slices.Insert(l, 3, "not a line\n") },
		"CR added":   func(l []string) []string { l[2] = strings.TrimSuffix(l[2], "\n") + "\r\n"; return l },
		"torn off":   func(l []string) []string { l[5] = l[5][:20]; return l },
		"empty":      func([]string) []string { return nil },
		"edited, chained": func(l []string) []string {
			l[2] = strings.Replace(l[2], "Sign", "Sigm",
				1)
			return chain(l)
		},
		"removed, chained": func(l []string) []string {
			return chain(slices.Delete(l, 1, 2))
		},
		"moved, chained": func(l []string) []string { l[1], l[2] = l[2], l[1]; return chain(l) },
		"rewritten without a checkpoint": func(l []string) []string {
			return chain(slices.DeleteFunc(l, func(line string) bool { return strings.Contains(line, "Checkpoint") }))
		},
		"checkpoint of a later line": func(l []string) []string { l[1], l[3] = l[3], l[1]; return chain(l) },
		"abandoned in the middle of a file": func(l []string) []string {
			l[2] = strings.Replace(l[0], `"Time"`, `"Abandoned":"so","Time"`, 1)
			return l
		},
	} {
		forged := strings.Join(forge(slices.Clone(lines)), "")
		if result, err := verifyText(audit.Verifier{Key: &key.PublicKey}, forged); err == nil {
			t.Errorf("%s: got %+v, want an error", name, result)
		}
	}
	whole := strings.Join(lines, "")
	if result, err := verifyText(audit.Verifier{Key: &other.PublicKey}, whole); err == nil {
		t.Errorf("another key: got %+v, want an error", result)
	}
	if result, err := verifyText(audit.Verifier{}, whole); err != nil || result.Proven.Seq != 0 {
		t.Errorf("without a key: got %+v, %v, want a chain and nothing proven", result, err)
	}
	forged := slices.Clone(lines)
	forged[1] = strings.Replace(forged[1], "Sign", "Sigm", 1)
	result, err := verifyText(audit.Verifier{Key: &key.PublicKey}, strings.Join(forged, ""))
	if result.Last.Seq != 2 || err == nil || !strings.Contains(err.Error(), "audit.log: line 3") {
		t.Errorf("with line 2 edited: got %+v, %v, want the break at line 3", result, err)
	}
}

var linePrefix = regexp.MustCompile(`^{"Seq":[0-9]+,"Prev":"[0-9a-f]*"`)

// chain corrects the numbers and hashes of lines. Anyone who can write to the file can do so.
func chain(lines []string) []string {
	prev := strings.Repeat("0", 64)
	for i, line := range lines {
		lines[i] = linePrefix.ReplaceAllString(line, fmt.Sprintf(`{"Seq":%d,"Prev":"%s"`, i+1, prev))
		prev = hashOf(strings.TrimSuffix(lines[i], "\n"))
	}
	return lines
}

// hashOf returns the Prev of the line that follows line.
func hashOf(line string) string {
	sum := sha256.Sum256([]byte(line))
	return hex.EncodeToString(sum[:])
}

// TestCutTail cuts off whole lines. Only a head stored elsewhere can reveal that.
func TestCutTail(t *testing.T) {
	path := newLog(t, 6)
	l := open(t, path)
	appendLines(t, l, 1)
	head, err := l.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	kept, err := audit.ParseCheckpoint(head.String())
	if err != nil || kept.Head != head.Head {
		t.Fatalf("ParseCheckpoint(%v): got %+v, %v, want %+v", head, kept, err, head)
	}
	appendLines(t, l, 1)
	closeLog(t, l)
	whole := string(read(t, path))
	lines := strings.SplitAfter(whole, "\n")
	cut := strings.Join(lines[:kept.Seq-1], "")
	v := audit.Verifier{Key: &key.PublicKey}
	if _, err := verifyText(v, cut); err != nil {
		t.Errorf("a cut end without a head: got %v, want nil", err)
	}
	v.Expect = &kept
	if _, err := verifyText(v, whole); err != nil {
		t.Errorf("the whole log: got %v, want nil", err)
	}
	if _, err := verifyText(v, cut); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("a cut end: got %v, want \"cut off\"", err)
	}
	edited := append(slices.Clone(lines[:kept.Seq-1]), strings.Replace(lines[kept.Seq-1], "Sign", "Sigm", 1))
	forged := chain(slices.Clone(edited))
	if _, err := verifyText(v, strings.Join(forged, "")); err == nil || !strings.Contains(err.Error(), "rewritten") {
		t.Errorf("a rewritten end: got %v, want \"rewritten\"", err)
	}
	after := audit.Verifier{Key: &key.PublicKey, After: &kept}
	if result, err := verifyText(after, whole); err != nil || result.First.Seq != kept.Seq+1 {
		t.Errorf("after a head: got %+v, %v, want lines from %d on", result, err, kept.Seq+1)
	}
	_, err = verifyText(after, strings.Join(lines[kept.Seq+1:], ""))
	if err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("after a head, without the next line: got %v, want \"missing\"", err)
	}
	_, err = verifyText(after, strings.Join(chain(append(slices.Clone(edited), lines[kept.Seq])), ""))
	if err == nil || !strings.Contains(err.Error(), "rewritten") {
		t.Errorf("after a head that the log lacks: got %v, want \"rewritten\"", err)
	}
	kept.Seq++
	if _, err := verifyText(v, whole); err == nil || !strings.Contains(err.Error(), "signature") {
		t.Errorf("a forged head: got %v, want \"signature\"", err)
	}
	for _, text := range []string{"", "x", "e30", head.String() + "!"} {
		if c, err := audit.ParseCheckpoint(text); err == nil {
			t.Errorf("ParseCheckpoint(%q): got %+v, want an error", text, c)
		}
	}
}

// TestForgedAbandonment forges a next file that abandons proven lines. Lines covered by a
// checkpoint cannot be abandoned.
func TestForgedAbandonment(t *testing.T) {
	lines := linesOf(t, 6)
	sum := sha256.Sum256([]byte(strings.TrimSuffix(lines[0], "\n")))
	next := fmt.Sprintf(`{"Seq":2,"Prev":"%x","Time":"2026-11-22T04:00:00Z","Abandoned":"so"}`+"\n", sum)
	result, err := audit.Verifier{Key: &key.PublicKey}.Verify(
		audit.File{Name: "first", Reader: strings.NewReader(strings.Join(lines, "") + "\n")},
		audit.File{Name: "next", Reader: strings.NewReader(next)})
	if err == nil || !strings.Contains(err.Error(), "abandons lines that were proven") {
		t.Errorf("Verify: got %+v, %v, want \"abandons lines that were proven\"", result, err)
	}
}

// A lineReader makes up a log while it is read.
type lineReader struct {
	tb    testing.TB
	n     uint64 // the number of lines
	entry []byte // of each line: JSON without its brace
	head  audit.Head
	text  []byte            // not read yet
	next  func(line uint64) // called before each line; nil means nothing
}

// madeUp returns a log of n lines, each with the same entry, and with a checkpoint for every thousand lines.
func madeUp(tb testing.TB, n uint64, e audit.Entry) *lineReader {
	tb.Helper()
	text, err := json.Marshal(e)
	if err != nil {
		tb.Fatal(err)
	}
	return &lineReader{tb: tb, n: n, entry: text[1:], head: audit.Head{Hash: strings.Repeat("0", 64)}}
}

func (r *lineReader) Read(p []byte) (int, error) {
	if len(r.text) == 0 && r.head.Seq == r.n {
		return 0, io.EOF
	}
	if len(r.text) == 0 {
		r.text = append(r.line(), '\n')
	}
	n := copy(p, r.text)
	r.text = r.text[n:]
	return n, nil
}

func (r *lineReader) line() []byte {
	if r.next != nil {
		r.next(r.head.Seq + 1)
	}
	line := fmt.Appendf(nil, `{"Seq":%d,"Prev":"%s",%s`, r.head.Seq+1, r.head.Hash, r.entry)
	if r.head.Seq%1000 == 999 {
		c := audit.Checkpoint{Head: r.head, Time: time.Now().UTC()}
		var err, signErr error
		c.Signature, signErr = ecdsa.SignASN1(rand.Reader, key, c.Digest())
		line, err = json.Marshal(audit.Line{Seq: r.head.Seq + 1, Prev: r.head.Hash, Event: &audit.Event{Time: c.Time, Kind: audit.KindCheckpoint, Checkpoint: &c}})
		if err := errors.Join(err, signErr); err != nil {
			r.tb.Fatal(err)
		}
	}
	r.head = audit.Head{Seq: r.head.Seq + 1, Hash: hashOf(string(line))}
	return line
}

// TestVerifyMemory checks that verifying takes the same memory for a log of any number of lines.
func TestVerifyMemory(t *testing.T) {
	const shorter, longer = 70_000, 140_000 // both more than a verifier remembers
	var live [2]uint64
	log := madeUp(t, longer, audit.Entry{RequestId: "id"})
	log.next = func(line uint64) {
		if line == shorter || line == longer {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			live[line/longer] = m.HeapAlloc
		}
	}
	result, err := audit.Verifier{Key: &key.PublicKey}.Verify(audit.File{Name: "audit.log", Reader: log})
	if err != nil || result.Lines != longer {
		t.Fatalf("Verify: got %+v, %v, want %d lines", result, err, longer)
	}
	if live[1] > live[0]+(longer-shorter)*4 {
		t.Errorf("live memory: %d bytes after %d lines and %d after %d, want it constant", live[0], shorter, live[1], longer)
	}
}

// signing is the entry of a typical request for a signature.
var signing = audit.Entry{Time: time.Date(2026, 11, 30, 1, 2, 3, 123_456_789, time.UTC), RequestId: "7f0f24a3-2f0c-4b7c-9d26-0a2e3f5b1c11",
	Door: "rpc", Protocol: "ACS3-HMAC-SHA256", Source: "192.0.2.7", AccessKeyId: "LTAI5tKq1xVdJ3mPn8sYwZ2b", Principal: "release",
	Action: "AsymmetricSign", Quota: "sign", KeyId: "key-4c5f0c5e-3f5e-4f5a-9d3e-6a3a4f0e2b11",
	KeyVersionId: "0b1e2d3c-4a59-4f68-8b7a-1c2d3e4f5a6b", Alias: "alias/release", KeySpec: "EC_P256", Algorithm: "ECDSA_SHA_256",
	Digest: make([]byte, 32), Status: 200, DurationNanoseconds: 1_234_567}

// BenchmarkVerify verifies a log of 10,000 signatures, whose content is in memory.
func BenchmarkVerify(b *testing.B) {
	const lines = 10_000
	text, err := io.ReadAll(madeUp(b, lines, signing))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		result, err := audit.Verifier{Key: &key.PublicKey}.Verify(audit.File{Name: "audit.log", Reader: bytes.NewReader(text)})
		if err != nil || result.Lines != lines {
			b.Fatalf("Verify: got %+v, %v, want %d lines", result, err, lines)
		}
	}
	b.ReportMetric(lines*float64(b.N)/b.Elapsed().Seconds(), "lines/s")
}
