package audit_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

// TestUnanswered adds events for lines whose callers get no result. The log verifies, and no event
// names another event.
func TestUnanswered(t *testing.T) {
	path := t.TempDir() + "/audit.log"
	l := openConfig(t, config(path))
	appendLines(t, l, 1)
	seq, err := l.AppendNumbered(audit.Entry{RequestId: "withheld"})
	if err != nil {
		t.Fatal(err)
	}
	appendLines(t, l, 1)
	if err := l.AppendUnanswered(seq); err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	named := make(map[uint64]string)
	var events []uint64
	for text := range strings.Lines(string(read(t, path))) {
		var line audit.Line
		if err := line.UnmarshalJSON([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if line.Entry != nil {
			named[line.Seq] = line.Entry.RequestId
		} else {
			events = append(events, line.Event.Unanswered...)
		}
	}
	if !slices.Equal(events, []uint64{seq}) || named[seq] != "withheld" {
		t.Errorf("unanswered lines: %v, lines: %v, want only %d, of the withheld request", events, fmt.Sprint(named), seq)
	}
	if _, err := verify(t, path); err != nil {
		t.Error(err)
	}
	if _, err := l.AppendNumbered(audit.Entry{}); err == nil {
		t.Error("AppendNumbered to a closed log: no error")
	}
	if err := l.AppendUnanswered(seq); err == nil {
		t.Error("AppendUnanswered to a closed log: no error")
	}
}
