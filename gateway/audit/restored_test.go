package audit_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

// newBackup creates a log of n lines and more further ones. It returns the log's path and, as in a
// backup, its head after n lines.
func newBackup(t *testing.T, n, more int) (path string, head audit.Checkpoint) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "audit.log")
	l := open(t, path)
	appendLines(t, l, n)
	head, err := l.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	appendLines(t, l, more)
	closeLog(t, l)
	return path, head
}

// restoredConfig returns the Config for a log whose records were restored.
func restoredConfig(path string, head audit.Checkpoint, kept *audit.Head) audit.Config {
	cfg := config(path)
	cfg.Expect, cfg.Restored = head.Head, &head
	cfg.Keep = func(c audit.Checkpoint, _ bool) error {
		*kept = c.Head
		return nil
	}
	return cfg
}

// TestRestored continues after a backup's head without the earlier log. The new log must be
// provable separately and continue like any other.
func TestRestored(t *testing.T) {
	_, head := newBackup(t, 5, 3)
	path := filepath.Join(t.TempDir(), "audit.log")
	var kept audit.Head
	closeLog(t, openConfig(t, restoredConfig(path, head, &kept)))
	cfg := config(path)
	cfg.Expect, cfg.Ended = kept, true
	l := openConfig(t, cfg)
	appendLines(t, l, 2)
	closeLog(t, l)
	result, err := verify(t, path)
	if err != nil || result.First.Seq != 6 || result.Proven.Seq < 9 || len(result.Restored) != 1 ||
		result.Restored[0] != head.Head {
		t.Errorf("the new log: got %+v, %v, want lines from 6, proven up to 9, and the head %v", result, err, head.Head)
	}
	// Anyone who stored the head can also verify that the log follows it.
	if _, err := verifyText(audit.Verifier{Key: &key.PublicKey, After: &head}, string(read(t, path))); err != nil {
		t.Errorf("the new log after the head: got %v, want nil", err)
	}
}

// TestRestoredBesideLog continues the earlier log, to which lines may have been added after the
// backup. Open must refuse the log of another instance.
func TestRestoredBesideLog(t *testing.T) {
	for _, more := range []int{0, 3} {
		path, head := newBackup(t, 5, more)
		var kept audit.Head
		closeLog(t, openConfig(t, restoredConfig(path, head, &kept)))
		result, err := verify(t, path)
		if err != nil || result.First.Seq != 1 || result.Last.Seq < uint64(6+more) || len(result.Restored) != 1 ||
			result.Restored[0] != head.Head {
			t.Errorf("with %d later lines: got %+v, %v, want all lines and the head %v", more, result, err, head.Head)
		}
	}
	path, _ := newBackup(t, 9, 0)
	_, head := newBackup(t, 5, 0)
	before := read(t, path)
	var kept audit.Head
	_, err := audit.Open(restoredConfig(path, head, &kept))
	if err == nil || !strings.Contains(err.Error(), "line 5 is not the recorded one") {
		t.Errorf("beside another instance's log: got %v, want \"line 5 is not the recorded one\"", err)
	}
	if string(read(t, path)) != string(before) {
		t.Error("Open changed another instance's log, want it unchanged")
	}
}

// TestRestoredForged begins a log with a head that the key has not signed, or with the head of
// another line.
func TestRestoredForged(t *testing.T) {
	_, head := newBackup(t, 5, 3)
	path := filepath.Join(t.TempDir(), "audit.log")
	var kept audit.Head
	closeLog(t, openConfig(t, restoredConfig(path, head, &kept)))
	lines := strings.SplitAfter(string(read(t, path)), "\n")
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, forge := range map[string]func(*audit.Checkpoint){
		"signed by another key": func(c *audit.Checkpoint) {
			if c.Signature, err = ecdsa.SignASN1(rand.Reader, other, c.Digest()); err != nil {
				t.Fatal(err)
			}
		},
		"another hash":   func(c *audit.Checkpoint) { c.Hash = strings.Repeat("0", 64) },
		"another number": func(c *audit.Checkpoint) { c.Seq++ },
		"none":           func(c *audit.Checkpoint) { *c = audit.Checkpoint{} },
	} {
		var line map[string]json.RawMessage
		if err := json.Unmarshal([]byte(lines[0]), &line); err != nil {
			t.Fatal(err)
		}
		forged := head
		forge(&forged)
		text, err := json.Marshal(forged)
		if err != nil {
			t.Fatal(err)
		}
		content := strings.Replace(lines[0], string(line["Restored"]), string(text), 1) + strings.Join(lines[1:], "")
		if _, err := verifyText(audit.Verifier{Key: &key.PublicKey}, content); err == nil {
			t.Errorf("%s: got nil, want an error", name)
		}
	}
	// A genuine head alone proves no line after it.
	if _, err := verifyText(audit.Verifier{Key: &key.PublicKey}, lines[0]); err == nil {
		t.Error("a log without a checkpoint: got nil, want an error")
	}
}
