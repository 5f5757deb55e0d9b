package audit_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

// hostile has characters that act on a terminal or hide text: DEL, a C1 control, marks that change
// the writing direction, a byte order mark, separators of lines and paragraphs, and a tag.
const hostile = "\x7f\u0080\u009b2J\u009f\u061c\u200e\u200f\u202a\u202e\u2066\u2069\u2028\u2029\ufeff\U000e0041"

// inert reports whether text has only printable characters and line breaks.
func inert(text []byte) bool {
	return !strings.ContainsFunc(string(text), func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) })
}

// TestHostileText checks that hostile characters of every field are escaped in the file, that the
// line has the same text nevertheless, and that it verifies.
func TestHostileText(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, path)
	e := audit.Entry{RequestId: hostile, Action: "中" + hostile, Reason: "a" + hostile + "é🔑"}
	if err := l.Append(e); err != nil {
		t.Fatal(err)
	}
	l.Offer(audit.Entry{RequestId: "offered", KeyId: hostile}, func() { t.Error("Offer called lost") })
	l.OfferSuppressed(audit.Event{Suppressed: 7, Source: hostile, Principal: hostile}, func() { t.Error("OfferSuppressed called lost") })
	closeLog(t, l)
	text := read(t, path)
	if !inert(text) || !strings.Contains(string(text), `\u007f\u0080\u009b2J`) || !strings.Contains(string(text), "é🔑") {
		t.Errorf("the log: got %q, want every hostile character escaped, and no other", text)
	}
	var line audit.Line
	first, _, _ := strings.Cut(string(text), "\n")
	if err := json.Unmarshal([]byte(first), &line); err != nil || line.Entry == nil || line.Entry.Action != e.Action || line.Entry.Reason != e.Reason {
		t.Errorf("the first line, read again: got %+v, %v, want %+v", line.Entry, err, e)
	}
	if again, err := json.Marshal(line); err != nil || string(again) != first {
		t.Errorf("the first line, written again: got %s, %v, want %s", again, err, first)
	}
	if result, err := verify(t, path); err != nil || result.Lines < 4 {
		t.Errorf("Verify: got %+v, %v, want three lines and a checkpoint", result, err)
	}
}

// TestHostileOldLine checks that a log with a line of an earlier version, which escaped nothing,
// continues and verifies.
func TestHostileOldLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	lines, _ := withEvents(t, nil)
	old := oldLine(lines, "", `"RequestId":"`+hostile+`"`)
	if err := os.WriteFile(path, []byte(strings.Join(append(lines, old), "")), 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, path)
	appendLines(t, l, 1)
	closeLog(t, l)
	if text := read(t, path); inert(text) || !strings.Contains(string(text), old) {
		t.Errorf("the old line was changed:\n%q", text)
	}
	if result, err := verify(t, path); err != nil || result.Proven.Seq < 4 {
		t.Errorf("Verify: got %+v, %v, want four lines proven", result, err)
	}
}
