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

// backedUp gives a log of n lines and more, its head after n of them as a backup
// has it, and what is kept of it.
func backedUp(t *testing.T, n, more int) (path string, head audit.Checkpoint) {
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

// restoredConfig is how a log is opened whose records were restored.
func restoredConfig(path string, head audit.Checkpoint, kept *audit.Head) audit.Config {
	cfg := config(path)
	cfg.Expect, cfg.Restored = head.Head, &head
	cfg.Keep = func(c audit.Checkpoint, _ bool) error {
		*kept = c.Head
		return nil
	}
	return cfg
}

// TestRestored goes on behind a backup's head without the log of before: the new
// log proves itself, and is gone on with like any other.
func TestRestored(t *testing.T) {
	_, head := backedUp(t, 5, 3)
	path := filepath.Join(t.TempDir(), "audit.log")
	var kept audit.Head
	closeLog(t, openConfig(t, restoredConfig(path, head, &kept)))
	cfg := config(path)
	cfg.Expect, cfg.Ended = kept, true
	l := openConfig(t, cfg)
	appendLines(t, l, 2)
	closeLog(t, l)
	proof, err := verify(t, path)
	if err != nil || proof.First.Seq != 6 || proof.Proven.Seq < 9 || len(proof.Restored) != 1 || proof.Restored[0] != head.Head {
		t.Errorf("the new log: %+v, %v", proof, err)
	}
	// It is also what follows the head for who has kept that.
	if _, err := verifyText(audit.Verifier{Key: &key.PublicKey, After: &head}, string(read(t, path))); err != nil {
		t.Errorf("the new log after the head: %v", err)
	}
}

// TestRestoredBesideLog goes on with the log of before, which may have gone on
// since the backup; a log that is another's is refused.
func TestRestoredBesideLog(t *testing.T) {
	for _, more := range []int{0, 3} {
		path, head := backedUp(t, 5, more)
		var kept audit.Head
		closeLog(t, openConfig(t, restoredConfig(path, head, &kept)))
		proof, err := verify(t, path)
		if err != nil || proof.First.Seq != 1 || proof.Last.Seq < uint64(6+more) || len(proof.Restored) != 1 || proof.Restored[0] != head.Head {
			t.Errorf("with %d lines since: %+v, %v", more, proof, err)
		}
	}
	path, _ := backedUp(t, 9, 0)
	_, head := backedUp(t, 5, 0)
	before := read(t, path)
	var kept audit.Head
	if _, err := audit.Open(restoredConfig(path, head, &kept)); err == nil || !strings.Contains(err.Error(), "line 5 is not the one") {
		t.Errorf("beside another's log: %v", err)
	}
	if string(read(t, path)) != string(before) {
		t.Error("another's log was changed")
	}
}

// TestRestoredForged begins a log with a head that the key has not signed, or that
// is of another line.
func TestRestoredForged(t *testing.T) {
	_, head := backedUp(t, 5, 3)
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
		old, new := string(line["Restored"]), string(text)
		if _, err := verifyText(audit.Verifier{Key: &key.PublicKey}, strings.Replace(lines[0], old, new, 1)+strings.Join(lines[1:], "")); err == nil {
			t.Errorf("%s: nothing was found", name)
		}
	}
	// A genuine head alone proves no line behind it.
	if _, err := verifyText(audit.Verifier{Key: &key.PublicKey}, lines[0]); err == nil {
		t.Error("a log without a checkpoint of its own is proven")
	}
}
