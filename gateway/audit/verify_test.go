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

// linesOf gives a log of n entries as lines with their newlines.
func linesOf(t *testing.T, n int) []string {
	t.Helper()
	return strings.SplitAfter(strings.TrimSuffix(string(read(t, newLog(t, n))), "\n"), "\n")
}

// TestForged edits, removes, moves and adds lines, without the means to sign.
func TestForged(t *testing.T) {
	lines := linesOf(t, 6)
	lines[len(lines)-1] += "\n"
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, forge := range map[string]func([]string) []string{
		"edited":          func(l []string) []string { l[2] = strings.Replace(l[2], "Sign", "Sigm", 1); return l },
		"removed":         func(l []string) []string { return slices.Delete(l, 2, 3) },
		"first gone":      func(l []string) []string { return l[1:] },
		"moved":           func(l []string) []string { l[1], l[2] = l[2], l[1]; return l },
		"doubled":         func(l []string) []string { return slices.Insert(l, 3, l[2]) },
		"inserted":        func(l []string) []string { return slices.Insert(l, 3, "not a line\n") },
		"CR added":        func(l []string) []string { l[2] = strings.TrimSuffix(l[2], "\n") + "\r\n"; return l },
		"torn off":        func(l []string) []string { l[5] = l[5][:20]; return l },
		"empty":           func([]string) []string { return nil },
		"edited, chained": func(l []string) []string { l[2] = strings.Replace(l[2], "Sign", "Sigm", 1); return chain(l) },
		"removed, chained": func(l []string) []string {
			return chain(slices.Delete(l, 1, 2))
		},
		"moved, chained": func(l []string) []string { l[1], l[2] = l[2], l[1]; return chain(l) },
		"all anew, without a checkpoint": func(l []string) []string {
			return chain(slices.DeleteFunc(l, func(line string) bool { return strings.Contains(line, "Checkpoint") }))
		},
		"checkpoint of a line to come": func(l []string) []string { l[1], l[3] = l[3], l[1]; return chain(l) },
		"abandoned in the middle of a file": func(l []string) []string {
			l[2] = strings.Replace(l[0], `"Time"`, `"Abandoned":"so","Time"`, 1)
			return l
		},
	} {
		forged := strings.Join(forge(slices.Clone(lines)), "")
		if proof, err := verifyText(audit.Verifier{Key: &key.PublicKey}, forged); err == nil {
			t.Errorf("%s: Verify found nothing: %+v", name, proof)
		}
	}
	whole := strings.Join(lines, "")
	if proof, err := verifyText(audit.Verifier{Key: &other.PublicKey}, whole); err == nil {
		t.Errorf("another's key: Verify found nothing: %+v", proof)
	}
	if proof, err := verifyText(audit.Verifier{}, whole); err != nil || proof.Proven.Seq != 0 {
		t.Errorf("without a key: %+v, %v, want a chain and nothing proven", proof, err)
	}
	forged := slices.Clone(lines)
	forged[1] = strings.Replace(forged[1], "Sign", "Sigm", 1)
	if proof, err := verifyText(audit.Verifier{Key: &key.PublicKey}, strings.Join(forged, "")); proof.Last.Seq != 2 || err == nil || !strings.Contains(err.Error(), "audit.log: line 3") {
		t.Errorf("Verify with line 2 edited: %+v, %v, want the break at line 3", proof, err)
	}
}

var chained = regexp.MustCompile(`^{"Seq":[0-9]+,"Prev":"[0-9a-f]*"`)

// chain gives lines the numbers and hashes that they should have: what anybody
// can do who can write to the file.
func chain(lines []string) []string {
	prev := strings.Repeat("0", 64)
	for i, line := range lines {
		lines[i] = chained.ReplaceAllString(line, fmt.Sprintf(`{"Seq":%d,"Prev":"%s"`, i+1, prev))
		prev = hashOf(strings.TrimSuffix(lines[i], "\n"))
	}
	return lines
}

// hashOf returns what the next line has to have as its Prev.
func hashOf(line string) string {
	sum := sha256.Sum256([]byte(line))
	return hex.EncodeToString(sum[:])
}

// TestCutTail cuts whole lines off: only a head that was kept elsewhere shows it.
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
		t.Fatalf("%v read back is %+v, %v", head, kept, err)
	}
	appendLines(t, l, 1)
	closeLog(t, l)
	whole := string(read(t, path))
	lines := strings.SplitAfter(whole, "\n")
	cut := strings.Join(lines[:kept.Seq-1], "")
	v := audit.Verifier{Key: &key.PublicKey}
	if _, err := verifyText(v, cut); err != nil {
		t.Errorf("a cut tail is found without a head, which nobody can: %v", err)
	}
	v.Expect = &kept
	if _, err := verifyText(v, whole); err != nil {
		t.Errorf("the whole log: %v", err)
	}
	if _, err := verifyText(v, cut); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("a cut tail: %v", err)
	}
	forged := chain(append(slices.Clone(lines[:kept.Seq-1]), strings.Replace(lines[kept.Seq-1], "Sign", "Sigm", 1)))
	if _, err := verifyText(v, strings.Join(forged, "")); err == nil || !strings.Contains(err.Error(), "rewritten") {
		t.Errorf("an end that was written anew: %v", err)
	}
	after := audit.Verifier{Key: &key.PublicKey, After: &kept}
	if proof, err := verifyText(after, whole); err != nil || proof.First.Seq != kept.Seq+1 {
		t.Errorf("after a head: %+v, %v", proof, err)
	}
	if _, err := verifyText(after, strings.Join(lines[kept.Seq+1:], "")); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("after a head, with the line behind it missing: %v", err)
	}
	if _, err := verifyText(after, strings.Join(chain(append(slices.Clone(lines[:kept.Seq-1]), strings.Replace(lines[kept.Seq-1], "Sign", "Sigm", 1), lines[kept.Seq])), "")); err == nil || !strings.Contains(err.Error(), "rewritten") {
		t.Errorf("after a head that is not there: %v", err)
	}
	kept.Seq++
	if _, err := verifyText(v, whole); err == nil || !strings.Contains(err.Error(), "signature") {
		t.Errorf("a head that was forged: %v", err)
	}
	for _, text := range []string{"", "x", "e30", head.String() + "!"} {
		if c, err := audit.ParseCheckpoint(text); err == nil {
			t.Errorf("%q is a head: %+v", text, c)
		}
	}
}

// TestForgedAbandonment makes a next file that says that proven lines count for
// nothing: what a checkpoint covers cannot be abandoned.
func TestForgedAbandonment(t *testing.T) {
	lines := linesOf(t, 6)
	sum := sha256.Sum256([]byte(strings.TrimSuffix(lines[0], "\n")))
	next := fmt.Sprintf(`{"Seq":2,"Prev":"%x","Time":"2026-11-22T04:00:00Z","Abandoned":"so"}`+"\n", sum)
	proof, err := audit.Verifier{Key: &key.PublicKey}.Verify(
		audit.File{Name: "first", Reader: strings.NewReader(strings.Join(lines, "") + "\n")}, audit.File{Name: "next", Reader: strings.NewReader(next)})
	if err == nil || !strings.Contains(err.Error(), "abandons lines that were proven") {
		t.Errorf("%+v, %v", proof, err)
	}
}
