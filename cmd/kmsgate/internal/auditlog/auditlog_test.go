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

// search returns what a search writes.
func search(t *testing.T, format auditlog.Format, filter *auditlog.Filter, names ...string) string {
	t.Helper()
	var b bytes.Buffer
	if err := auditlog.Search(t.Context(), names, filter, auditlog.NewWriter(&b, format)); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// found returns the numbers of the lines in JSON lines.
func found(t *testing.T, text string) string {
	t.Helper()
	var numbers []string
	for one := range strings.Lines(text) {
		var line audit.Line
		if err := json.Unmarshal([]byte(one), &line); err != nil {
			t.Fatalf("%q: %v", one, err)
		}
		numbers = append(numbers, fmt.Sprint(line.Seq))
	}
	return strings.Join(numbers, " ")
}

// TestEveryKind writes an event of each kind, and one of a later version, in each
// format: it is named, and JSON has it as the log has.
func TestEveryKind(t *testing.T) {
	for _, kind := range append(audit.Kinds(), "later") {
		log := auditlogtest.New(t)
		log.Requests(1)
		head := log.Sign()
		log.Events(auditlogtest.EventOf(kind, head))
		raw, err := os.ReadFile(log.Path)
		if err != nil {
			t.Fatal(err)
		}
		if got := search(t, auditlog.JSON, new(auditlog.Filter), log.Path); got != string(raw) || !strings.Contains(got, fmt.Sprintf(`"Kind":%q`, kind)) {
			t.Errorf("%s: JSON has\n%s, the log\n%s", kind, got, raw)
		}
		table := strings.Split(search(t, auditlog.Table, new(auditlog.Filter), log.Path), "\n")
		if cell := strings.TrimSpace(table[2][38:60]); !strings.HasPrefix(cell, "(") || !strings.HasSuffix(cell, string(kind)+")") {
			t.Errorf("%s: a table has %q", kind, cell)
		}
		if cells := csvRow(t, search(t, auditlog.CSV, new(auditlog.Filter), log.Path), 2); cells["Kind"] != string(kind) || cells["Seq"] != "2" {
			t.Errorf("%s: CSV has %v", kind, cells)
		}
		old := strings.Replace(string(raw), fmt.Sprintf(`"Kind":%q,`, kind), "", 1) // as earlier versions wrote it
		if kind == "later" {
			continue // there are none
		}
		path := log.File("old", old)
		if got := search(t, auditlog.JSON, new(auditlog.Filter), path); got != old {
			t.Errorf("%s without its kind: JSON has\n%s, the log\n%s", kind, got, old)
		}
		if got := strings.Split(search(t, auditlog.Table, new(auditlog.Filter), path), "\n"); got[2] != table[2] {
			t.Errorf("%s without its kind: a table has\n%s, with it\n%s", kind, got[2], table[2])
		}
		if cells := csvRow(t, search(t, auditlog.CSV, new(auditlog.Filter), path), 2); cells["Kind"] != string(kind) {
			t.Errorf("%s without its kind: CSV has %v", kind, cells)
		}
	}
}

// csvRow returns a row of a CSV by the names of its columns.
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

// TestHostile writes lines full of what would act on a terminal or a spreadsheet.
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
			t.Errorf("%s makes %d lines of 3", format, n)
		}
		for line := range strings.Lines(b.String()) {
			if strings.ContainsFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x202e }) {
				t.Errorf("%s has %q", format, line)
			}
		}
	}
}

// TestEveryFieldExported finds every field that JSON has in the CSV: a field that is
// added to the log is exported without being listed.
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
				t.Errorf("%s is not exported", name)
			}
		}
		all += len(fields)
	}
	if all < 30 {
		t.Errorf("there are only %d fields", all)
	}
}

// A failing writer takes nothing.
type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, unix.ENOSPC }

func TestSearchFails(t *testing.T) {
	log := auditlogtest.New(t)
	log.Requests(2)
	for _, format := range formats {
		if err := auditlog.Search(t.Context(), []string{log.Path}, new(auditlog.Filter), auditlog.NewWriter(failing{}, format)); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s on a full disk: %v", format, err)
		}
	}
	none := log.Path + ".none"
	if err := auditlog.Search(t.Context(), []string{none}, new(auditlog.Filter), auditlog.NewWriter(failing{}, auditlog.JSON)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that does not exist: %v", err)
	}
	if _, err := auditlog.Files(none); err == nil || !strings.Contains(err.Error(), "there is no log at "+none) {
		t.Errorf("a log that does not exist: %v", err)
	}
}

// TestEndsWithContext reads a pipe that nobody writes to.
func TestEndsWithContext(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(pipe, os.O_RDWR, 0) // or opening it to read waits
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := auditlog.Search(ctx, []string{pipe}, new(auditlog.Filter), auditlog.NewWriter(failing{}, auditlog.JSON)); !errors.Is(err, context.Canceled) {
		t.Errorf("Search: %v", err)
	}
	if _, err := auditlog.Verify(ctx, audit.Verifier{}, []string{pipe}); !errors.Is(err, context.Canceled) {
		t.Errorf("Verify: %v", err)
	}
}

// TestVerify also shows that an error keeps its identity, and cannot act on a
// terminal.
func TestVerify(t *testing.T) {
	log := auditlogtest.New(t)
	log.Requests(3)
	log.Checkpoint()
	first := log.Rotate(1)
	log.Requests(2)
	v := audit.Verifier{Key: log.Key()}
	if r, err := auditlog.Verify(t.Context(), v, []string{first, log.Path}); err != nil || r.Lines != 6 || r.Proven.Seq != 3 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := auditlog.Verify(t.Context(), v, []string{log.Path}); !errors.Is(err, audit.ErrFilesMissing) {
		t.Errorf("without the first file: %v", err)
	}
	hostile := log.File("hostile", `{"Seq":1,"Prev":"\u001b[2J","Time":"2026-11-22T00:00:00Z"}`+"\n")
	if _, err := auditlog.Verify(t.Context(), v, []string{hostile}); err == nil || strings.ContainsRune(err.Error(), 0x1b) || !strings.Contains(err.Error(), `\x1b[2J`) {
		t.Errorf("a hostile file: %v", err)
	}
	if _, err := auditlog.Verify(t.Context(), v, []string{log.Path + ".none"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that does not exist: %v", err)
	}
}

func TestSummary(t *testing.T) {
	line := func(seq uint64) audit.Head { return audit.Head{Seq: seq} }
	for want, p := range map[string]audit.VerifyResult{
		"proven: lines 1 to 9, up to 2026-11-22T00:00:00Z": {First: line(1), Last: line(9), Proven: line(9), ProvenTime: auditlogtest.Begin},
		"proven: lines 1 to 8, up to 2026-11-22T00:00:00Z; 1 more line since then is chained to them, but no checkpoint covers it yet":     {First: line(1), Last: line(9), Proven: line(8), ProvenTime: auditlogtest.Begin},
		"proven: lines 3 to 7, up to 2026-11-22T00:00:00Z; 2 more lines since then are chained to them, but no checkpoint covers them yet": {First: line(3), Last: line(9), Proven: line(7), ProvenTime: auditlogtest.Begin},
		"not proven yet: lines 3 to 9 form a chain, but no checkpoint covers them":                                                         {First: line(3), Last: line(9), Proven: line(2), ProvenTime: auditlogtest.Begin},
	} {
		if got := auditlog.Summary(p); got != want {
			t.Errorf("%+v: %s, want %s", p, got, want)
		}
	}
}
