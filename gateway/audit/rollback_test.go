package audit_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

// TestRollback opens a log for records whose last change has a number. The log has a line of a change, or
// none, and ends with a checkpoint that was made at change 5.
func TestRollback(t *testing.T) {
	line := func(change uint64) func(t *testing.T, l *audit.Log) {
		return func(t *testing.T, l *audit.Log) {
			t.Helper()
			if err := l.Append(audit.Entry{RequestId: "r", Action: "CreateAlias", Change: change}); err != nil {
				t.Fatal(err)
			}
		}
	}
	none := func(*testing.T, *audit.Log) {}
	for name, test := range map[string]struct {
		last          func(t *testing.T, l *audit.Log)
		found, seen   uint64
		acceptLoss    bool
		accept, older bool
	}{
		"the last change":                      {last: line(7), found: 7},
		"a later change":                       {last: line(7), found: 8},
		"an earlier change":                    {last: line(7), found: 6, older: true},
		"an earlier change, accepted":          {last: line(7), found: 6, accept: true},
		"an earlier change, a loss accepted":   {last: line(7), found: 6, acceptLoss: true, older: true},
		"seen elsewhere":                       {last: line(7), found: 7, seen: 9, older: true},
		"seen elsewhere, accepted":             {last: line(7), found: 7, seen: 9, accept: true},
		"only a checkpoint":                    {last: none, found: 5},
		"earlier than a checkpoint":            {last: none, found: 4, older: true},
		"a number that no gateway reaches":     {last: line(audit.MaxChange + 1), found: 5},
		"the greatest number that is believed": {last: line(audit.MaxChange), found: 5, older: true},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "audit.log")
			cfg := config(path)
			cfg.Changes = func() uint64 { return 5 }
			l := openConfig(t, cfg)
			appendLines(t, l, 1)
			test.last(t, l)
			closeLog(t, l)
			cfg.Changes = func() uint64 { return test.found }
			cfg.SeenChange, cfg.AcceptRollback, cfg.AcceptLoss = test.seen, test.accept, test.acceptLoss
			l, err := audit.Open(cfg)
			rollback := new(audit.RollbackError)
			if errors.As(err, &rollback) != test.older || err != nil && !test.older {
				t.Errorf("Open: got %v, want a RollbackError: %v", err, test.older)
			}
			if err != nil {
				return
			}
			closeLog(t, l)
			if told := strings.Contains(string(read(t, path)), `"RolledBack":{`); told != test.accept {
				t.Errorf("the log tells of a rollback: %v, want %v", told, test.accept)
			}
		})
	}
}

// TestRollbackRecorded opens a log for older records. Open records that before it changes the log. If the process
// ends then, the next Open continues the log, although the number of the records no longer shows it.
func TestRollbackRecorded(t *testing.T) {
	cfg := config(filepath.Join(t.TempDir(), "audit.log"))
	cfg.Changes = func() uint64 { return 5 }
	cfg.Keep = func(c audit.Checkpoint, ended bool) error { cfg.Expect, cfg.Ended = c.Head, ended; return nil }
	l := openConfig(t, cfg)
	appendLines(t, l, 1)
	closeLog(t, l)
	older := cfg // closed after the first line
	l = openConfig(t, cfg)
	if err := l.Append(audit.Entry{RequestId: "r", Action: "CreateAlias", Change: 7}); err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	before := read(t, older.Path)

	killed := errors.New("killed")
	var recorded *audit.Rollback
	older.Keep, older.AcceptRollback = nil, true
	older.KeepRollback = func(r audit.Rollback) error { recorded = &r; return killed }
	if _, err := audit.Open(older); !errors.Is(err, killed) || recorded == nil || *recorded != (audit.Rollback{Found: 5, Seen: 7}) {
		t.Fatalf("Open: %v, and it recorded %v, want the rollback from 7 to 5", err, recorded)
	}
	if now := read(t, older.Path); string(now) != string(before) {
		t.Errorf("Open has changed the log before it recorded the rollback:\n%s", now)
	}
	older.Changes = func() uint64 { return 8 }
	older.AcceptRollback, older.KeepRollback, older.Rollback = false, nil, recorded
	closeLog(t, openConfig(t, older))
	if now := read(t, older.Path); strings.Count(string(now), `"RolledBack":{"Found":5,"Seen":7}`) != 1 {
		t.Errorf("the log does not tell of the rollback:\n%s", now)
	}
}
