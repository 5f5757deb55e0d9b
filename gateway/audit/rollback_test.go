package audit_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"path/filepath"
	"slices"
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
		"the greatest number that is believed": {last: line(5 + 1<<40), found: 5, older: true},
		"ahead of a number seen elsewhere":     {last: line(9 + 1<<40), found: 5, seen: 9, accept: true},
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
	result, err := verify(t, older.Path)
	if err != nil || !slices.Equal(result.RolledBack, []audit.Rollback{*recorded}) {
		t.Errorf("Verify: %v, %v, want the rollback", result.RolledBack, err)
	}
}

// TestRollbackUncovered checks that a RollbackError names the first line if no checkpoint covers the lines that show
// the rollback. Anyone who can write the log's files can add such lines.
func TestRollbackUncovered(t *testing.T) {
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	change := func(b *builder) { b.add(audit.Line{Entry: &audit.Entry{Action: "CreateAlias", Change: 7}}) }
	for name, test := range map[string]struct {
		lines func(b *builder)
		seen  uint64
		want  uint64
	}{
		"covered":                   {lines: func(b *builder) { change(b); b.checkpoint() }},
		"the first of them covered": {lines: func(b *builder) { change(b); b.checkpoint(); change(b) }},
		"no checkpoint":             {lines: func(b *builder) { change(b); change(b) }, want: 3},
		"before a checkpoint":       {lines: func(b *builder) { b.checkpoint(); change(b) }, want: 4},
		"a checkpoint of another log": {lines: func(b *builder) {
			change(b)
			c := audit.Checkpoint{Head: audit.Head{Seq: b.head.Seq, Hash: hashOf("another line")}, Time: b.time}
			if c.Signature, err = ecdsa.SignASN1(rand.Reader, key, c.Digest()); err != nil {
				t.Fatal(err)
			}
			b.event(audit.Event{Kind: audit.KindCheckpoint, Checkpoint: &c})
		}, want: 3},
		"a checkpoint of another key": {lines: func(b *builder) { change(b); b.checkpointBy(other) }, want: 3},
		"seen elsewhere":              {lines: change, seen: 6},
	} {
		t.Run(name, func(t *testing.T) {
			b := build(t).requests(2)
			test.lines(b)
			b.end()
			cfg := config(b.path)
			cfg.Key, cfg.SeenChange, cfg.Changes = &key.PublicKey, test.seen, func() uint64 { return 5 }
			_, err := audit.Open(cfg)
			rollback := new(audit.RollbackError)
			if !errors.As(err, &rollback) || rollback.Uncovered != test.want {
				t.Errorf("Open: %v, want a RollbackError with the uncovered line %d", err, test.want)
			}
		})
	}
}

// TestImplausibleChange opens a log to which somebody has added a line with a number that no gateway reaches. The
// operator can accept the loss of that line, but not that the database is older, since it is not.
func TestImplausibleChange(t *testing.T) {
	b := build(t).requests(1)
	b.add(audit.Line{Entry: &audit.Entry{Action: "CreateAlias", Change: 6 + 1<<40}})
	b.requests(1).end()
	cfg := config(b.path)
	cfg.Changes = func() uint64 { return 5 }
	cfg.Keep = func(c audit.Checkpoint, ended bool) error { cfg.Expect, cfg.Ended = c.Head, ended; return nil }
	for _, cfg.AcceptRollback = range []bool{false, true} {
		_, err := audit.Open(cfg)
		loss := new(audit.LossError)
		if !errors.As(err, &loss) || !strings.Contains(err.Error(), "line 2 has change number 1099511627782, but the last known change is number 5") {
			t.Errorf("Open with AcceptRollback %v: %v, want a LossError that names the line", cfg.AcceptRollback, err)
		}
	}
	cfg.AcceptRollback, cfg.AcceptLoss = false, true
	closeLog(t, openConfig(t, cfg))
	cfg.AcceptLoss = false
	for range 2 {
		closeLog(t, openConfig(t, cfg))
	}
	if strings.Contains(string(read(t, b.path)), "RolledBack") {
		t.Error("the log tells of a rollback, want none")
	}
}
