package main

import (
	"os"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/auditlog/auditlogtest"
	"github.com/kmsgate/kmsgate/gateway/audit"
)

// auditCommands are the commands that read a log, for all of its lines.
var auditCommands = []string{"verify", "search -o json", "export", "export -o csv", "tail -n 1000 -o json"}

// newAuditLog writes a log in three files, which the environment names, and returns the names of the
// rotated ones and their last lines.
func newAuditLog(t *testing.T) (log *auditlogtest.Log, names []string, ends []audit.Head) {
	t.Helper()
	log, names, ends = auditlogtest.NewRotated(t)
	t.Setenv(auditFileVariable, log.Path)
	t.Setenv(auditKeyVariable, log.KeyFile())
	return log, names, ends
}

// TestAuditGaps removes a file of a log. Every command prints the other lines, except verify, and then
// fails with the numbers of the missing ones.
func TestAuditGaps(t *testing.T) {
	for i, want := range []string{"lines 1 to 5 are missing", "lines 6 to 10 are missing"} {
		_, names, _ := newAuditLog(t)
		if err := os.Remove(names[i]); err != nil {
			t.Fatal(err)
		}
		for _, command := range auditCommands {
			got, err := runAudit(t, strings.Fields(command)...)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %q", command, err, want)
			}
			if lines := strings.Count(got, "r-"); (lines == 8) == (command == "verify") {
				t.Errorf("%s printed %d requests:\n%s", command, lines, got)
			}
		}
	}
	_, names, _ := newAuditLog(t)
	if err := os.Remove(names[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := runAudit(t, "tail", "-f", "-n", "1000"); err == nil || !strings.Contains(err.Error(), "lines 1 to 5 are missing") {
		t.Errorf("tail -f: got %v, want \"lines 1 to 5 are missing\"", err)
	}
}

// TestAuditCompressed compresses the rotated files of a log. No command's output changes.
func TestAuditCompressed(t *testing.T) {
	log, names, _ := newAuditLog(t)
	want := make(map[string]string)
	for _, command := range auditCommands {
		got, err := runAudit(t, strings.Fields(command)...)
		if err != nil || got == "" {
			t.Fatalf("%s: %q, %v", command, got, err)
		}
		want[command] = got
	}
	for _, name := range names {
		log.Compress(name)
	}
	for _, command := range auditCommands {
		if got, err := runAudit(t, strings.Fields(command)...); got != want[command] || err != nil {
			t.Errorf("%s of the compressed log: got\n%s, %v, want\n%s", command, got, err, want[command])
		}
	}
	name := names[0] + ".gz"
	if err := os.Truncate(name, 30); err != nil {
		t.Fatal(err)
	}
	for _, command := range auditCommands {
		if _, err := runAudit(t, strings.Fields(command)...); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s with a file cut off: got %v, want an error about %s", command, err, name)
		}
	}
}

// TestAuditDeleted deletes the oldest files of a log as retention does. Every command reads the rest,
// and verify says what was deleted.
func TestAuditDeleted(t *testing.T) {
	log, names, ends := newAuditLog(t)
	for i, name := range names {
		log.Delete(name, ends[i])
	}
	for _, command := range auditCommands {
		got, err := runAudit(t, strings.Fields(command)...)
		if err != nil || got == "" {
			t.Errorf("%s: got %q, %v", command, got, err)
		}
		if want := "lines 1 to 10 were deleted by retention; verification begins at line 11"; command == "verify" && !strings.Contains(got, want) {
			t.Errorf("verify: got %q, want %q in it", got, want)
		}
	}
	if got, err := runAudit(t, "verify", "-o", "json"); err != nil || !strings.Contains(strings.ReplaceAll(got, " ", ""), `"Deleted":{`) {
		t.Errorf("verify -o json: got %q, %v, want the last deleted line", got, err)
	}
}
