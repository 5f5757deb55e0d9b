package gateway_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

func (b *bench) outbox() (left []store.Outbox) {
	b.t.Helper()
	left = slices.Collect(b.db.Now().Outbox().All())
	return left
}

func (b *bench) linesOf(requestId string) []audit.Entry {
	b.t.Helper()
	return slices.DeleteFunc(b.auditLines(), func(e audit.Entry) bool { return e.RequestId != requestId })
}

// leaveOutbox writes what a process leaves that is killed between a change and
// its line.
func (b *bench) leaveOutbox(after uint64, e audit.Entry) {
	b.t.Helper()
	text, err := json.Marshal(e)
	if err != nil {
		b.t.Fatal(err)
	}
	err = b.db.Update(func(tx *store.Tx) error {
		return tx.Outbox().Put(store.Outbox{RequestId: e.RequestId, After: after, Entry: text})
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

// takeLog takes the audit log's file away, and gives how to put it back.
func (b *bench) takeLog() (back func()) {
	b.t.Helper()
	path := filepath.Join(b.dir, "audit.log")
	if err := os.Rename(path, path+".away"); err != nil {
		b.t.Fatal(err)
	}
	return func() {
		b.t.Helper()
		if err := os.Rename(path+".away", path); err != nil {
			b.t.Fatal(err)
		}
	}
}

// unlogged makes a change at the moment when the log fails: it was there when
// the change was begun, as far as the gateway knew. The client is not told that
// it is done, and cannot repeat the request either.
func (b *bench) unlogged(action string, pairs ...string) (requestId string) {
	b.t.Helper()
	v := b.sign(b.root, "GET", action, params(pairs...))
	a := b.send("GET", "/?"+v.Encode(), nil)
	if a.Status != 503 || a.Code != "ServiceUnavailableTemporary" || !strings.Contains(a.Message, "was carried out") {
		b.t.Fatalf("%s: %d %s %q", action, a.Status, a.Code, a.Message)
	}
	if left := b.outbox(); len(left) != 1 || left[0].RequestId != a.RequestId {
		b.t.Fatalf("%s: the outbox has %+v, want the line of %s", action, left, a.RequestId)
	}
	if a := b.send("GET", "/?"+v.Encode(), nil); a.Code != "SignatureNonceUsed" {
		b.t.Errorf("%s, repeated: %d %s", action, a.Status, a.Code)
	}
	return a.RequestId
}

// wantLate wants a request's line once, marked, of a change that was made.
func (b *bench) wantLate(requestId, action, alias string) {
	b.t.Helper()
	lines := b.linesOf(requestId)
	if len(lines) != 1 || !lines[0].Late || lines[0].Action != action || lines[0].Alias != alias || lines[0].Principal != "root" ||
		lines[0].Status != 200 || lines[0].Code != "" || lines[0].Door != "rpc" {
		b.t.Errorf("the lines of %s %s: %+v, want one that is late", action, alias, lines)
	}
	if left := b.outbox(); len(left) != 0 {
		b.t.Errorf("the outbox still has %+v", left)
	}
}

// TestOutboxSettled: a change whose line the log did not take gets it when the
// log is back, once.
func TestOutboxSettled(t *testing.T) {
	b := newBench(t)
	b.server.Flush()
	back := b.takeLog()
	id := b.unlogged("CreateAlias", "AliasName", "alias/late", "KeyId", b.key.KeyId)
	b.server.Flush() // the log is still away
	if left := b.outbox(); len(left) != 1 {
		t.Errorf("the outbox has %+v although the log has nothing", left)
	}
	if a := b.do(b.root, "CreateAlias", "AliasName", "alias/next", "KeyId", b.key.KeyId); a.Status != 503 {
		t.Errorf("the next change is answered %d", a.Status)
	}
	back()
	b.server.Flush()
	b.wantLate(id, "CreateAlias", "alias/late")
	b.server.Flush()
	b.wantLate(id, "CreateAlias", "alias/late")
	b.want(b.do(b.root, "DeleteAlias", "AliasName", "alias/late"), 200, "")
	b.want(b.do(b.root, "CreateAlias", "AliasName", "alias/next", "KeyId", b.key.KeyId), 200, "") // was not made
	b.server.Flush()
	b.stop()
	b.start()
	b.wantLate(id, "CreateAlias", "alias/late")
}

// TestOutboxAfterRestart: the next process finds the change that the last one
// had no time to log.
func TestOutboxAfterRestart(t *testing.T) {
	b := newBench(t)
	b.server.Flush()
	back := b.takeLog()
	id := b.unlogged("CreateAlias", "AliasName", "alias/late", "KeyId", b.key.KeyId)
	b.stop()
	back()
	for range 2 { // the second start finds nothing to do
		b.start()
		b.wantLate(id, "CreateAlias", "alias/late")
		b.stop()
	}
	b.start()
	b.want(b.do(b.root, "DeleteAlias", "AliasName", "alias/late"), 200, "")
}

// TestOutboxOfACrash: records that a killed process left get a line each, but
// for those that have theirs.
func TestOutboxOfACrash(t *testing.T) {
	b := newBench(t)
	b.server.Flush()
	logged := b.want(b.do(b.root, "CreateAlias", "AliasName", "alias/logged", "KeyId", b.key.KeyId), 200, "")
	if left := b.outbox(); len(left) != 1 || left[0].RequestId != logged.RequestId {
		t.Fatalf("the outbox has %+v, want what a crash would leave now", left)
	}
	entry := audit.Entry{Time: b.clock.Now(), Door: "rpc", Principal: "root", Action: "CreateAlias", Status: 200}
	var late []audit.Entry
	for _, alias := range []string{"alias/1", "alias/2"} {
		entry.RequestId, entry.Alias = uuid.NewString(), alias
		b.leaveOutbox(b.log.Head().Seq, entry)
		late = append(late, entry)
	}
	b.stop()
	b.start()
	for _, e := range late {
		b.wantLate(e.RequestId, "CreateAlias", e.Alias)
	}
	if lines := b.linesOf(logged.RequestId); len(lines) != 1 || lines[0].Late {
		t.Errorf("a change that had its line has %+v", lines)
	}
	b.stop()
	if proof, err := b.verify(); err != nil || proof.Lines == 0 {
		t.Errorf("the chain: %+v, %v", proof, err)
	}
}

// verify reads the log as an auditor without a key.
func (b *bench) verify() (audit.VerifyResult, error) {
	b.t.Helper()
	content, err := os.ReadFile(filepath.Join(b.dir, "audit.log"))
	if err != nil {
		b.t.Fatal(err)
	}
	return audit.Verifier{}.Verify(audit.File{Name: "audit.log", Reader: bytes.NewReader(content)})
}

// TestOutboxOfAnotherLog: a gateway does not start on a log whose end was cut
// off behind a change, and says so, and changes nothing. With the whole log it
// starts.
func TestOutboxOfAnotherLog(t *testing.T) {
	b := newBench(t)
	b.server.Flush()
	b.want(b.do(b.root, "ListKeys"), 200, "")
	entry := audit.Entry{Time: b.clock.Now(), RequestId: uuid.NewString(), Door: "rpc", Principal: "root", Action: "CreateAlias", Alias: "alias/1", Status: 200}
	b.leaveOutbox(b.log.Head().Seq, entry)
	b.stop()
	path := filepath.Join(b.dir, "audit.log")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	cut := bytes.SplitAfter(whole, []byte{'\n'})
	for name, content := range map[string][]byte{"cut": bytes.Join(cut[:len(cut)-2], nil), "gone": nil} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		err := b.tryNew()
		if err == nil || !strings.Contains(err.Error(), "its end is missing") {
			t.Errorf("%s: %v", name, err)
		}
		if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, content) {
			t.Errorf("%s: the start that was refused wrote to the log, %v", name, err)
		}
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.wantLate(entry.RequestId, "CreateAlias", "alias/1")
}

// tryNew starts a gateway on the bench's directory, and ends it.
func (b *bench) tryNew() error {
	b.t.Helper()
	db, err := store.Open(filepath.Join(b.dir, "db"))
	if err != nil {
		b.t.Fatal(err)
	}
	defer db.Close()
	cfg := audit.Config{Path: filepath.Join(b.dir, "audit.log"), Logger: quiet}
	for o := range db.Now().Outbox().All() {
		cfg.AtLeast = max(cfg.AtLeast, o.After)
	}
	log, err := audit.Open(cfg)
	if err != nil {
		return err
	}
	defer log.Close()
	_, err = gateway.New(b.t.Context(), gateway.Config{Store: db, Backend: b.backend, Sealer: b.backend, Audit: log, Now: b.clock.Now, Logger: quiet})
	return err
}

// TestOutboxIsEmptied: every operation that changes something leaves one record,
// the next ones remove it, and in the end there is none: the database does not
// grow with what is done.
func TestOutboxIsEmptied(t *testing.T) {
	b := newBench(t)
	for range 50 {
		b.want(b.do(b.root, "UpdateKeyDescription", "KeyId", b.key.KeyId, "Description", "d"), 200, "")
		if n := len(b.outbox()); n != 1 {
			t.Fatalf("after a change that is logged the outbox has %d records", n)
		}
	}
	b.want(b.do(b.root, "UpdateKeyDescription", "KeyId", "none", "Description", "d"), 404, "Forbidden.KeyNotFound")
	b.want(b.do(b.root, "UpdateKeyDescription", "KeyId", b.key.KeyId, "Description", "d", "DryRun", "true"), 400, "DryRunOperationError")
	b.want(b.do(b.root, "AsymmetricSign", b.signParams()...), 200, "")
	if n := len(b.outbox()); n != 1 {
		t.Errorf("what changes nothing left the outbox with %d records", n)
	}
	b.server.Flush()
	if left := b.outbox(); len(left) != 0 {
		t.Errorf("settled, the outbox has %+v", left)
	}
}

// TestNoDeletionWithoutLog: while the audit log cannot be written no key is
// deleted and no key pair destroyed; afterwards they are.
func TestNoDeletionWithoutLog(t *testing.T) {
	b := newBench(t)
	b.want(b.do(b.root, "ScheduleKeyDeletion", "KeyId", b.key.KeyId, "PendingWindowInDays", "7"), 200, "")
	version := b.db.Now().VersionsOf(b.key.KeyId)[0]
	left := func() (record, pair bool) {
		_, err := b.backend.Sign(t.Context(), version.Key, hsm.ECDSA_SHA_256, make([]byte, hsm.DigestSize))
		return b.db.Now().Keys().Has(b.key.KeyId), err == nil
	}
	b.clock.move(8 * 24 * time.Hour)
	back := b.takeLog()
	b.do(b.root, "ListKeys") // by which it is noticed
	for range 2 {
		b.server.CarryOutDeletions(t.Context())
	}
	if record, pair := left(); !record || !pair {
		t.Errorf("without a log: the record is there: %v, the key pair: %v", record, pair)
	}
	back()
	b.eventually("the log", func() bool { return b.log.Err() == nil })
	b.server.CarryOutDeletions(t.Context())
	if record, pair := left(); record || pair {
		t.Errorf("with the log back: the record is there: %v, the key pair: %v", record, pair)
	}
}
