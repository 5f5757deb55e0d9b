package gateway_test

import (
	"bytes"
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
	"github.com/kmsgate/kmsgate/store/storetest"
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

// leaveOutbox writes the outbox record that a process leaves if it is killed between a change and
// its audit line.
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

// hideLog renames the file of the audit log, so that the log cannot be written, until restore is
// called.
func (b *bench) hideLog() (restore func()) {
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

// unlogged makes a change while the log fails without the gateway knowing. The answer must be an
// error that says that the change was made, and the request cannot be repeated.
func (b *bench) unlogged(action string, pairs ...string) (requestId string) {
	b.t.Helper()
	v := b.sign(b.root, "GET", action, params(pairs...))
	a := b.send("GET", "/?"+v.Encode(), nil)
	if a.Status != 503 || a.Code != "ServiceUnavailableTemporary" || !strings.Contains(a.Message, "was carried out") {
		b.t.Fatalf("%s: got %d %s %q, want 503 that says that it was carried out", action, a.Status, a.Code, a.Message)
	}
	if left := b.outbox(); len(left) != 1 || left[0].RequestId != a.RequestId {
		b.t.Fatalf("%s: got %+v in the outbox, want the line of %s", action, left, a.RequestId)
	}
	if a := b.send("GET", "/?"+v.Encode(), nil); a.Code != "SignatureNonceUsed" {
		b.t.Errorf("%s, repeated: got %d %s, want SignatureNonceUsed", action, a.Status, a.Code)
	}
	return a.RequestId
}

// wantLate checks that the log has one line of a change, marked Late, and that the outbox is empty.
func (b *bench) wantLate(requestId, action, alias string) {
	b.t.Helper()
	lines := b.linesOf(requestId)
	if len(lines) != 1 || !lines[0].Late || lines[0].Action != action || lines[0].Alias != alias || lines[0].Principal != "root" ||
		lines[0].Status != 200 || lines[0].Code != "" || lines[0].Door != "rpc" {
		b.t.Errorf("%s %s: got lines %+v, want one that is late", action, alias, lines)
	}
	if left := b.outbox(); len(left) != 0 {
		b.t.Errorf("%s %s: got %+v in the outbox, want nothing", action, alias, left)
	}
}

// TestOutboxSettled checks that a change whose line could not be written gets its line when the log
// works again, and only once.
func TestOutboxSettled(t *testing.T) {
	b := newBench(t)
	b.server.Flush()
	restore := b.hideLog()
	id := b.unlogged("CreateAlias", "AliasName", "alias/late", "KeyId", b.key.KeyId)
	b.server.Flush() // fails, because the log is still hidden
	if left := b.outbox(); len(left) != 1 {
		t.Errorf("without the log: got %+v in the outbox, want one record", left)
	}
	if a := b.do(b.root, "CreateAlias", "AliasName", "alias/next", "KeyId", b.key.KeyId); a.Status != 503 {
		t.Errorf("the next change: got %d, want 503", a.Status)
	}
	restore()
	b.server.Flush()
	b.wantLate(id, "CreateAlias", "alias/late")
	b.server.Flush()
	b.wantLate(id, "CreateAlias", "alias/late")
	b.want(b.do(b.root, "DeleteAlias", "AliasName", "alias/late"), 200, "")
	b.want(b.do(b.root, "CreateAlias", "AliasName", "alias/next", "KeyId", b.key.KeyId),
		200, "") // it was not created before
	b.server.Flush()
	b.stop()
	b.start()
	b.wantLate(id, "CreateAlias", "alias/late")
}

// TestOutboxAfterRestart checks that the next process logs a change that the last one could not
// log.
func TestOutboxAfterRestart(t *testing.T) {
	b := newBench(t)
	b.server.Flush()
	restore := b.hideLog()
	id := b.unlogged("CreateAlias", "AliasName", "alias/late", "KeyId", b.key.KeyId)
	b.stop()
	restore()
	for range 2 { // the second start has nothing to do
		b.start()
		b.wantLate(id, "CreateAlias", "alias/late")
		b.stop()
	}
	b.start()
	b.want(b.do(b.root, "DeleteAlias", "AliasName", "alias/late"), 200, "")
}

// TestOutboxOfACrash checks that the outbox records of a killed process get a line each, except for
// those whose line is in the log.
func TestOutboxOfACrash(t *testing.T) {
	b := newBench(t)
	b.server.Flush()
	logged := b.want(b.do(b.root, "CreateAlias", "AliasName", "alias/logged", "KeyId", b.key.KeyId), 200, "")
	if left := b.outbox(); len(left) != 1 || left[0].RequestId != logged.RequestId {
		t.Fatalf("got %+v in the outbox, want the record of %s, as after a crash", left, logged.RequestId)
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
		t.Errorf("a change with its line in the log: got %+v, want that line only", lines)
	}
	b.stop()
	if result, err := b.verify(); err != nil || result.Lines == 0 {
		t.Errorf("the chain: got %+v, %v, want it valid", result, err)
	}
}

// verify verifies the log as an auditor does who has no public key.
func (b *bench) verify() (audit.VerifyResult, error) {
	b.t.Helper()
	content, err := os.ReadFile(filepath.Join(b.dir, "audit.log"))
	if err != nil {
		b.t.Fatal(err)
	}
	return audit.Verifier{}.Verify(audit.File{Name: "audit.log", Reader: bytes.NewReader(content)})
}

// TestLateChange lets the commit of a change hang. The answer must say that the change may still take
// place. After the commit, the change must get its own audit line without a restart.
func TestLateChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _, _ := plainBench(t, 1)
		b.root = b.newUser("root", "")
		stop := b.running()
		defer stop()
		synctest.Wait()
		release := b.disk.HangCommit()
		query := b.sign(b.root, "GET", "CreateAlias", params("AliasName", "alias/late", "KeyId", b.everyRecord()[0].KeyId))
		w := httptest.NewRecorder()
		b.server.Handler(b.listener).ServeHTTP(w, httptest.NewRequest("GET", "https://kms/?"+query.Encode(), nil))
		a := readAnswer(t, w.Result())
		if a.Status != 503 || a.Code != "ServiceUnavailableTemporary" || !strings.Contains(a.Message, "may still take place") {
			t.Errorf("got %d %s %q, want 503 that says that the change may still take place", a.Status, a.Code, a.Message)
		}
		release()
		time.Sleep(time.Minute) // pending lines are written every second, the outbox is emptied every minute
		synctest.Wait()
		lines := b.linesOf(a.RequestId)
		if len(lines) != 2 || lines[0].Status != 503 || lines[0].Late || lines[1].Status != 200 || !lines[1].Late || lines[1].Alias != "alias/late" {
			t.Errorf("got lines %+v, want that of the answer, and a late one of the change", lines)
		}
		if left := b.outbox(); len(left) != 0 || !b.db.Now().Aliases().Has("alias/late") {
			t.Errorf("got %+v in the outbox, want nothing, and the alias", left)
		}
	})
}

// TestOutboxOfAnotherLog checks that a gateway refuses to start, with the reason, if the log ends
// before the lines that the outbox expects. It must not change the log. With the whole log it
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
	for name, content := range map[string][]byte{"cut": bytes.Join(cut[:len(cut)-2], nil), "empty": nil} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		err := b.tryNew()
		if err == nil || !strings.Contains(err.Error(), "its end is missing") {
			t.Errorf("%s: got error %v, want \"its end is missing\"", name, err)
		}
		if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, content) {
			t.Errorf("%s: the refused start changed the log (error %v)", name, err)
		}
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.wantLate(entry.RequestId, "CreateAlias", "alias/1")
}

// tryNew starts a gateway on the bench's directory, ends it, and returns the error of the start.
func (b *bench) tryNew() error {
	b.t.Helper()
	db, err := storetest.Open(filepath.Join(b.dir, "db"))
	if err != nil {
		b.t.Fatal(err)
	}
	defer db.Close()
	cfg := audit.Config{Path: filepath.Join(b.dir, "audit.log"), Logger: quiet}
	for o := range db.Now().Outbox().All() {
		cfg.MinSeq = max(cfg.MinSeq, o.After)
	}
	log, err := audit.Open(cfg)
	if err != nil {
		return err
	}
	defer log.Close()
	_, err = gateway.New(b.t.Context(), gateway.Config{Store: db, Backend: b.backend, Sealer: b.backend, Audit: log, Now: b.clock.Now, Seen: b.clock.Seen, Logger: quiet})
	return err
}

// TestOutboxIsEmptied checks that the outbox does not grow: each change leaves one record, and the
// next change or Flush removes it.
func TestOutboxIsEmptied(t *testing.T) {
	b := newBench(t)
	for range 50 {
		b.want(b.do(b.root, "UpdateKeyDescription", "KeyId", b.key.KeyId, "Description", "d"), 200, "")
		if n := len(b.outbox()); n != 1 {
			t.Fatalf("after a logged change: got %d records in the outbox, want 1", n)
		}
	}
	b.want(b.do(b.root, "UpdateKeyDescription", "KeyId", "none", "Description", "d"), 404, "Forbidden.KeyNotFound")
	b.want(b.do(b.root, "UpdateKeyDescription", "KeyId", b.key.KeyId, "Description", "d", "DryRun", "true"),
		400, "DryRunOperationError")
	b.want(b.do(b.root, "AsymmetricSign", b.signParams()...), 200, "")
	if n := len(b.outbox()); n != 1 {
		t.Errorf("after requests that change nothing: got %d records in the outbox, want 1", n)
	}
	b.server.Flush()
	if left := b.outbox(); len(left) != 0 {
		t.Errorf("after Flush: got %+v in the outbox, want nothing", left)
	}
}

// TestNoDeletionWithoutLog checks that no key is deleted and no key pair destroyed while the audit
// log cannot be written, and that both happen afterwards.
func TestNoDeletionWithoutLog(t *testing.T) {
	b := newBench(t)
	b.want(b.do(b.root, "ScheduleKeyDeletion", "KeyId", b.key.KeyId, "PendingWindowInDays", "7"), 200, "")
	version := b.db.Now().VersionsOf(b.key.KeyId)[0]
	exists := func() (record, pair bool) {
		_, err := b.backend.Sign(t.Context(), version.Key, hsm.ECDSA_SHA_256, make([]byte, hsm.DigestSize))
		return b.db.Now().Keys().Has(b.key.KeyId), err == nil
	}
	b.clock.move(8 * 24 * time.Hour)
	restore := b.hideLog()
	b.do(b.root, "ListKeys") // makes the log notice that its file is gone
	for range 2 {
		b.server.CarryOutDeletions(t.Context())
	}
	if record, pair := exists(); !record || !pair {
		t.Errorf("without a log: got record %v, key pair %v, want both to exist", record, pair)
	}
	restore()
	b.eventually("the log to work again", func() bool { return b.log.Err() == nil })
	b.server.CarryOutDeletions(t.Context())
	if record, pair := exists(); record || pair {
		t.Errorf("with the log restored: got record %v, key pair %v, want neither to exist", record, pair)
	}
}
