package auditlog_test

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/auditlog"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/auditlog/auditlogtest"
	"github.com/kmsgate/kmsgate/gateway/audit"
)

var formats = []auditlog.Format{auditlog.Table, auditlog.JSON, auditlog.CSV}

// search returns the output of a search.
func search(t *testing.T, format auditlog.Format, filter *auditlog.Filter, names ...string) string {
	t.Helper()
	var b bytes.Buffer
	if _, err := auditlog.Search(t.Context(), names, filter, auditlog.NewWriter(&b, format)); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// found returns the sequence numbers of the log's lines in text, which is JSON lines.
func found(t *testing.T, text string) string {
	t.Helper()
	var numbers []string
	for object := range strings.Lines(text) {
		var line audit.Line
		if err := json.Unmarshal([]byte(object), &line); err != nil {
			t.Fatalf("%q: %v", object, err)
		}
		numbers = append(numbers, fmt.Sprint(line.Seq))
	}
	return strings.Join(numbers, " ")
}

// TestEveryKind writes an event of each kind, and of a later version's kind, in each format. Each
// format names the event, and JSON has the same text as the log.
func TestEveryKind(t *testing.T) {
	for _, kind := range append(audit.Kinds(), "later") {
		log := auditlogtest.New(t)
		log.Requests(1)
		head := log.Sign()
		log.Events(auditlogtest.NewEvent(kind, head))
		raw, err := os.ReadFile(log.Path)
		if err != nil {
			t.Fatal(err)
		}
		if got := search(t, auditlog.JSON, new(auditlog.Filter), log.Path); got != string(raw) || !strings.Contains(got, fmt.Sprintf(`"Kind":%q`, kind)) {
			t.Errorf("%s: JSON: got\n%s, want the log's\n%s", kind, got, raw)
		}
		table := strings.Split(search(t, auditlog.Table, new(auditlog.Filter), log.Path), "\n")
		if cell := strings.TrimSpace(table[2][38:60]); !strings.HasPrefix(cell, "(") || !strings.HasSuffix(cell, string(kind)+")") {
			t.Errorf("%s: table: got %q, want a description that ends with the kind", kind, cell)
		}
		if cells := csvRow(t, search(t, auditlog.CSV, new(auditlog.Filter), log.Path), 2); cells["Kind"] != string(kind) || cells["Seq"] != "2" {
			t.Errorf("%s: CSV: got %v", kind, cells)
		}
		old := strings.Replace(string(raw), fmt.Sprintf(`"Kind":%q,`, kind), "", 1) // as earlier versions wrote it
		if kind == "later" {
			continue // earlier versions wrote no such events
		}
		path := log.File("old", old)
		if got := search(t, auditlog.JSON, new(auditlog.Filter), path); got != old {
			t.Errorf("%s without its kind: JSON: got\n%s, want the log's\n%s", kind, got, old)
		}
		if got := strings.Split(search(t, auditlog.Table, new(auditlog.Filter), path), "\n"); got[2] != table[2] {
			t.Errorf("%s without its kind: table: got\n%s, want\n%s", kind, got[2], table[2])
		}
		if cells := csvRow(t, search(t, auditlog.CSV, new(auditlog.Filter), path), 2); cells["Kind"] != string(kind) {
			t.Errorf("%s without its kind: CSV: got %v", kind, cells)
		}
	}
}

// csvRow returns the cells of row n of a CSV text by the names of their columns.
func csvRow(t *testing.T, text string, n int) map[string]string {
	t.Helper()
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	cells := make(map[string]string)
	for i, name := range rows[0] {
		cells[name] = rows[n][i]
	}
	return cells
}

// TestHostile tests that no format writes characters that act on a terminal.
func TestHostile(t *testing.T) {
	const attack = "=\x1b]0;x\a\u009b2J\u202e\r\n\t\x7f"
	for _, format := range formats {
		var b bytes.Buffer
		out := auditlog.NewWriter(&b, format)
		lines := auditlogtest.HostileLines(attack)
		lines = append(lines, audit.Line{Seq: 3, Prev: attack, Event: &audit.Event{Kind: attack}})
		for _, line := range lines {
			if err := out.Write(line); err != nil {
				t.Fatal(err)
			}
		}
		if err := out.Flush(); err != nil {
			t.Fatal(err)
		}
		names := 1
		if format == auditlog.JSON {
			names = 0
		}
		if n := strings.Count(b.String(), "\n"); n != names+3 {
			t.Errorf("%s: got %d lines, want %d", format, n, names+3)
		}
		for line := range strings.Lines(b.String()) {
			if strings.ContainsFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x202e }) {
				t.Errorf("%s: got %q, want only printable characters", format, line)
			}
		}
	}
}

// TestEveryFieldExported tests that the CSV has every field of the JSON, so that a field added to
// the log is exported too.
func TestEveryFieldExported(t *testing.T) {
	var b bytes.Buffer
	out := auditlog.NewWriter(&b, auditlog.CSV)
	lines := auditlogtest.HostileLines("x")
	for _, line := range lines {
		if err := out.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Flush(); err != nil {
		t.Fatal(err)
	}
	all := 0
	for i, line := range lines {
		text, err := json.Marshal(line)
		if err != nil {
			t.Fatal(err)
		}
		var fields map[string]any
		if err := json.Unmarshal(text, &fields); err != nil {
			t.Fatal(err)
		}
		cells := csvRow(t, b.String(), i+1)
		for name := range fields {
			if cells[name] == "" {
				t.Errorf("the CSV lacks %s", name)
			}
		}
		all += len(fields)
	}
	if all < 30 {
		t.Errorf("got %d fields, want at least 30", all)
	}
}

// A failing writer returns an error from every Write.
type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, unix.ENOSPC }

func TestSearchFails(t *testing.T) {
	log := auditlogtest.New(t)
	log.Requests(2)
	for _, format := range formats {
		if _, err := auditlog.Search(t.Context(), []string{log.Path}, new(auditlog.Filter), auditlog.NewWriter(failing{}, format)); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s on a full disk: got %v, want ENOSPC", format, err)
		}
	}
	none := log.Path + ".none"
	if _, err := auditlog.Search(t.Context(), []string{none}, new(auditlog.Filter), auditlog.NewWriter(failing{}, auditlog.JSON)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Search of a missing file: got %v, want fs.ErrNotExist", err)
	}
	if _, err := auditlog.Files(none); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("no audit log at %q", none)) {
		t.Errorf("Files of a missing log: got %v, want an error with its path", err)
	}
}

// TestEndsWithContext tests that reading a pipe without a writer ends with its context.
func TestEndsWithContext(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(pipe, os.O_RDWR, 0) // keeps opening the pipe for reading from blocking
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, err := auditlog.Search(ctx, []string{pipe}, new(auditlog.Filter), auditlog.NewWriter(failing{}, auditlog.JSON)); !errors.Is(err, context.Canceled) {
		t.Errorf("Search: got %v, want context.Canceled", err)
	}
	if _, err := auditlog.Verify(ctx, audit.Verifier{}, []string{pipe}); !errors.Is(err, context.Canceled) {
		t.Errorf("Verify: got %v, want context.Canceled", err)
	}
}

// TestVerify tests a verification, and that its error can be unwrapped and has only printable
// characters.
func TestVerify(t *testing.T) {
	log := auditlogtest.New(t)
	log.Requests(3)
	log.Checkpoint()
	first := log.Rotate(1)
	log.Requests(2)
	v := audit.Verifier{Key: log.Key()}
	if r, err := auditlog.Verify(t.Context(), v, []string{first, log.Path}); err != nil || r.Lines != 6 || r.Proven.Seq != 3 {
		t.Errorf("Verify: got %+v, %v, want 6 lines, 3 of them proven", r, err)
	}
	if _, err := auditlog.Verify(t.Context(), v, []string{log.Path}); !errors.Is(err, audit.ErrFilesMissing) {
		t.Errorf("Verify without the first file: got %v, want ErrFilesMissing", err)
	}
	hostile := log.File("hostile", `{"Seq":1,"Prev":"\u001b[2J","Time":"2026-11-22T00:00:00Z"}`+"\n")
	if _, err := auditlog.Verify(t.Context(), v, []string{hostile}); err == nil || strings.ContainsRune(err.Error(), 0x1b) || !strings.Contains(err.Error(), `\x1b[2J`) {
		t.Errorf("Verify of a hostile file: got %v, want an escaped error", err)
	}
	if _, err := auditlog.Verify(t.Context(), v, []string{log.Path + ".none"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Verify of a missing file: got %v, want fs.ErrNotExist", err)
	}
}

func TestSummary(t *testing.T) {
	line := func(seq uint64) audit.Head { return audit.Head{Seq: seq} }
	for want, p := range map[string]audit.VerifyResult{
		"proven: lines 1 to 9, up to 2026-11-22T00:00:00Z":                                                                                 {First: line(1), Last: line(9), Proven: line(9), ProvenTime: auditlogtest.Begin},
		"proven: lines 1 to 8, up to 2026-11-22T00:00:00Z; the log is whole: its last line is the checkpoint":                              {First: line(1), Last: line(9), Proven: line(8), ProvenTime: auditlogtest.Begin},
		"proven: lines 3 to 7, up to 2026-11-22T00:00:00Z; 1 line after that checkpoint is chained to it, but no checkpoint covers it yet": {First: line(3), Last: line(9), Proven: line(7), ProvenTime: auditlogtest.Begin},
		"proven: lines 1 to 9, up to 2026-11-22T00:00:00Z; the database was rolled back (2 in the log), most recently from change 8 to change 6": {
			First: line(1), Last: line(9), Proven: line(9), ProvenTime: auditlogtest.Begin,
			RolledBack: []audit.Rollback{{Found: 1, Seen: 2}, {Found: 6, Seen: 8}}},
		"proven: lines 1 to 9, up to 2026-11-22T00:00:00Z; after crashes, 2 intended lines are in doubt, the last of them line 6": {
			First: line(1), Last: line(9), Proven: line(9), ProvenTime: auditlogtest.Begin, InDoubt: []uint64{3, 6}},
		"not proven yet: lines 3 to 9 form a chain, but no checkpoint covers them": {First: line(3), Last: line(9), Proven: line(2), ProvenTime: auditlogtest.Begin},
	} {
		if got := auditlog.Summary(p); got != want {
			t.Errorf("Summary(%+v) = %q, want %q", p, got, want)
		}
	}
}
