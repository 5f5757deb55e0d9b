package audit_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

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
