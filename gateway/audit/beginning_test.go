package audit_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

// kept builds a log whose first file, with the lines 1 to 6, retention has deleted. add adds the lines
// that follow the second file's, and gets the deleted file's name and last line.
func kept(t *testing.T, add func(b *builder, name string, end audit.Head)) string {
	t.Helper()
	b := build(t)
	b.requests(5).checkpoint()
	end, name := b.head, b.rotate()
	b.requests(5).checkpoint()
	b.rotate()
	add(b, name, end)
	b.end()
	remove(t, name)
	return b.path
}

// TestBeginning verifies logs that do not begin with line 1. Only a deleted event that a checkpoint
// covers explains that.
func TestBeginning(t *testing.T) {
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		add  func(b *builder, name string, end audit.Head)
		want string // a part of the error; empty if the log verifies
	}{
		"covered": {func(b *builder, name string, end audit.Head) { b.deleted(name, end).checkpoint() }, ""},
		"covered later": {func(b *builder, name string, end audit.Head) {
			b.deleted(name, end).requests(3).checkpoint().requests(1)
		}, ""},
		"named twice, the second time covered": {func(b *builder, name string, end audit.Head) {
			b.deleted(name, end).event(audit.Event{Kind: audit.KindUnwitnessed, Unwitnessed: 1}).deleted(name, end).checkpoint()
		}, ""},
		"after earlier deletions": {func(b *builder, name string, end audit.Head) {
			b.deleted("a", audit.Head{Seq: 2, Hash: strings.Repeat("1", 64)}).deleted(name, end).checkpoint()
		}, ""},
		"before later deletions": {func(b *builder, name string, end audit.Head) {
			b.deleted(name, end).checkpoint()
			b.deleted("b", audit.Head{Seq: 12, Hash: strings.Repeat("2", 64)}).checkpoint().recovered().requests(1)
		}, ""},
		"no event":    {func(b *builder, _ string, _ audit.Head) { b.requests(1).checkpoint() }, "lines 1 to 6 are missing"},
		"not covered": {func(b *builder, name string, end audit.Head) { b.checkpoint().deleted(name, end) }, "lines 1 to 6 are missing"},
		"not covered, before the last line": {func(b *builder, name string, end audit.Head) {
			b.requests(1).deleted(name, end).requests(2)
		}, "lines 1 to 6 are missing"},
		"another hash": {func(b *builder, name string, end audit.Head) {
			b.deleted(name, audit.Head{Seq: end.Seq, Hash: strings.Repeat("1", 64)}).checkpoint()
		}, "lines 1 to 6 are missing"},
		"another number": {func(b *builder, name string, end audit.Head) {
			b.deleted(name, audit.Head{Seq: end.Seq + 1, Hash: end.Hash}).checkpoint()
		}, "lines 1 to 6 are missing"},
		"a later line": {func(b *builder, name string, end audit.Head) {
			b.deleted(name, audit.Head{Seq: 99, Hash: end.Hash}).checkpoint()
		}, "not an earlier one"},
		"covered by another key": {func(b *builder, name string, end audit.Head) {
			b.deleted(name, end).checkpointBy(other)
		}, "does not match the public key"},
		// The gateway found these lines at its start. Anyone could have written them.
		"unwitnessed": {func(b *builder, name string, end audit.Head) {
			b.deleted(name, end).event(audit.Event{Kind: audit.KindUnwitnessed, Unwitnessed: 1}).checkpoint()
		}, "lines 1 to 6 are missing"},
		"before a torn line": {func(b *builder, name string, end audit.Head) {
			b.deleted(name, end).recovered().checkpoint()
		}, "lines 1 to 6 are missing"},
		"before lost lines": {func(b *builder, name string, end audit.Head) {
			b.deleted(name, end).event(audit.Event{Kind: audit.KindLost, Lost: "so"}).checkpoint()
		}, "lines 1 to 6 are missing"},
		"void": {func(b *builder, name string, end audit.Head) {
			before := b.head
			b.deleted(name, end)
			b.rotate()
			b.head = before
			b.event(audit.Event{Kind: audit.KindAbandoned, Abandoned: "so"}).requests(2).checkpoint()
		}, "lines 1 to 6 are missing"},
	} {
		t.Run(name, func(t *testing.T) {
			path := kept(t, tc.add)
			result, err := verify(t, path)
			if tc.want == "" {
				if err != nil || result.Deleted == nil || result.Deleted.Seq != 6 || result.First.Seq != 7 || result.Proven.Seq < 13 {
					t.Errorf("got %+v, %v, want the lines from 7 on, and line 6 deleted", result, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %+v, %v, want %q", result, err, tc.want)
			}
			if strings.Contains(tc.want, "missing") && !errors.Is(err, audit.ErrFilesMissing) {
				t.Errorf("got %v, want ErrFilesMissing", err)
			}
		})
	}
}

// TestBeginningAfterVoidLines verifies a log whose deleted file ended with void lines, and one whose
// first file begins with a torn line.
func TestBeginningAfterVoidLines(t *testing.T) {
	for name, continued := range map[string]func(b *builder, end audit.Head){
		"void lines": func(b *builder, end audit.Head) {
			b.head = end
			b.event(audit.Event{Kind: audit.KindAbandoned, Abandoned: "so"})
		},
		"a torn line": func(b *builder, _ audit.Head) { b.recovered() },
	} {
		b := build(t)
		b.requests(5).checkpoint()
		end := b.head
		if name == "void lines" {
			b.requests(2)
		}
		first := b.rotate()
		continued(b, end)
		b.requests(2).deleted(first, end).checkpoint().end()
		if result, err := verify(t, b.path); err != nil || result.Deleted != nil {
			t.Errorf("before %s, with the deleted file: got %+v, %v, want nil", name, result, err)
		}
		remove(t, first)
		result, err := verify(t, b.path)
		if err != nil || result.Deleted == nil || *result.Deleted != end || result.First.Seq != 7 {
			t.Errorf("before %s: got %+v, %v, want line 6 deleted", name, result, err)
		}
	}
}

// TestBeginningExpected compares a log with heads of lines that retention has deleted.
func TestBeginningExpected(t *testing.T) {
	b := build(t)
	b.requests(5).checkpoint()
	end, first := b.head, b.rotate()
	b.requests(3).deleted(first, end).checkpoint().end()
	remove(t, first)
	text := string(read(t, b.path))
	head := func(h audit.Head) *audit.Checkpoint {
		c := audit.Checkpoint{Head: h, Time: b.time}
		var err error
		if c.Signature, err = ecdsa.SignASN1(rand.Reader, key, c.Digest()); err != nil {
			t.Fatal(err)
		}
		return &c
	}
	v := audit.Verifier{Key: &key.PublicKey, Expect: head(end)}
	if _, err := verifyText(v, text); err != nil {
		t.Errorf("the last deleted line: got %v, want nil", err)
	}
	v.Expect = head(audit.Head{Seq: 6, Hash: strings.Repeat("1", 64)})
	if _, err := verifyText(v, text); err == nil || !strings.Contains(err.Error(), "rewritten") {
		t.Errorf("another line 6: got %v, want \"rewritten\"", err)
	}
	v.Expect = head(audit.Head{Seq: 2, Hash: strings.Repeat("1", 64)})
	if _, err := verifyText(v, text); err == nil || !strings.Contains(err.Error(), "expect a later head") {
		t.Errorf("a line before: got %v, want \"expect a later head\"", err)
	}
	v = audit.Verifier{Key: &key.PublicKey, After: head(audit.Head{Seq: 2, Hash: strings.Repeat("1", 64)})}
	if _, err := verifyText(v, text); err == nil || !strings.Contains(err.Error(), "lines 3 to 6 are missing") {
		t.Errorf("after line 2: got %v, want \"lines 3 to 6 are missing\"", err)
	}
	v.After = head(end)
	if result, err := verifyText(v, text); err != nil || result.First.Seq != 7 {
		t.Errorf("after line 6: got %+v, %v, want the lines from 7 on", result, err)
	}
}

// TestGapNamed removes files of a log. The error names the missing lines.
func TestGapNamed(t *testing.T) {
	b := build(t)
	var files []string
	for range 4 {
		b.requests(5).checkpoint()
		files = append(files, b.rotate())
	}
	b.requests(1).checkpoint().end()
	for i, want := range []string{
		"lines 1 to 6 are missing", "lines 7 to 12 are missing", "lines 13 to 18 are missing", "lines 19 to 24 are missing",
	} {
		content := read(t, files[i])
		remove(t, files[i])
		if result, err := verify(t, b.path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("without file %d: got %+v, %v, want %q", i, result, err, want)
		}
		if err := os.WriteFile(files[i], content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := verify(t, b.path); err != nil {
		t.Errorf("with all files: got %v, want nil", err)
	}
}
