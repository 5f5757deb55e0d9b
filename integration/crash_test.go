package integration

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	kms "github.com/alibabacloud-go/kms-20160120/v3/client"
	"github.com/alibabacloud-go/tea/tea"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/clock"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/sealed"
	"github.com/kmsgate/kmsgate/hsm/token"
	"github.com/kmsgate/kmsgate/integration/devgateway"
	"github.com/kmsgate/kmsgate/softhsm"
	"github.com/kmsgate/kmsgate/store"
)

// crashDir is an environment variable. In a child process of TestKilledWhileDeleting, it names the
// directory of the gateway whose deletions the child must carry out.
const crashDir = "KMSGATE_CRASH_DIR"

// TestKilledWhileDeleting schedules the deletion of keys. It then starts processes that carry out
// the deletions, with clocks that are eight days ahead, and kills each after a longer delay until
// one completes. No key may be deleted in part: the other keys must sign, and the token must have
// the recorded key pairs and no more.
func TestKilledWhileDeleting(t *testing.T) {
	t.Parallel()
	if dir := os.Getenv(crashDir); dir != "" {
		carryOutDeletions(t, dir)
		return
	}
	dir := t.TempDir() + "/gateway"
	g := start(t, dir)
	client, err := devgateway.SDK(g.Env)
	if err != nil {
		t.Fatal(err)
	}
	kept := make(map[string]string) // KeyVersionId → KeyId of the keys that are not deleted
	for i := range 24 {
		keyId, versionId, err := newKey(client)
		if err != nil {
			t.Fatal(err)
		}
		if i%4 == 0 {
			kept[versionId] = keyId
			continue
		}
		require[*kms.CreateKeyVersionResponse](t)(client.CreateKeyVersion(&kms.CreateKeyVersionRequest{KeyId: &keyId}))
		require[*kms.ScheduleKeyDeletionResponse](t)(client.ScheduleKeyDeletion(
			&kms.ScheduleKeyDeletionRequest{KeyId: &keyId, PendingWindowInDays: tea.Int32(7)}))
	}
	if err := g.Stop(); err != nil {
		t.Fatal(err)
	}
	kills := 0
	for delay := 50 * time.Millisecond; ; delay += delay / 12 {
		child := exec.Command(os.Args[0], "-test.run=^TestKilledWhileDeleting$")
		child.Env = append(os.Environ(), crashDir+"="+dir)
		var out bytes.Buffer
		child.Stdout, child.Stderr = &out, &out
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(delay, func() { child.Process.Kill() })
		err := child.Wait()
		if timer.Stop() { // the child exited before the delay
			if err != nil {
				t.Fatalf("carrying out deletions: %v\n%s", err, out.String())
			}
			break
		}
		kills++
	}
	t.Logf("killed %d times", kills)
	checkObjects(t, dir)

	g = start(t, dir)
	if client, err = devgateway.SDK(g.Env); err != nil {
		t.Fatal(err)
	}
	if n, err := countKeys(client); err != nil || n != len(devgateway.KeySpecs)+len(kept) {
		t.Errorf("got %d keys, %v, want those of the dev gateway and the %d that were not scheduled", n, err, len(kept))
	}
	c := newSDK{client}
	for versionId, keyId := range kept {
		if _, _, _, err := c.sign(keyId, versionId, hsm.ECDSA_SHA_256, make([]byte, 32)); err != nil {
			t.Errorf("signing with a key that was not scheduled: %v", err)
		}
	}
	verifyAudit(t, dir)
}

// carryOutDeletions does what a gateway does after eight days.
func carryOutDeletions(t *testing.T, dir string) {
	soft, err := softhsm.Open(filepath.Join(dir, "softhsm"), nil)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := token.Open(token.Config{Module: soft.Module, Label: softhsm.Label, PIN: token.PIN(soft.PIN()),
		BeforeLogin: soft.Guard, AfterChange: soft.Flush})
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), filepath.Join(dir, "kmsgate.db"), tok, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	log, err := openAudit(db, filepath.Join(dir, "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	now := func() time.Time { return time.Now().Add(8 * 24 * time.Hour) }
	server, err := gateway.New(t.Context(), gateway.Config{
		Store: db, Backend: hsm.Route{Token: tok, Sealed: sealed.New(tok)}, Sealer: tok, Audit: log,
		Now: now, Clock: clock.New(now, clock.Seen, time.Time{}, ""), // which the gateway believes
	})
	if err != nil {
		t.Fatal(err)
	}
	server.CarryOutDeletions(t.Context())
	for _, close := range []func() error{log.Close, db.Close, tok.Close} {
		if err := close(); err != nil {
			t.Error(err)
		}
	}
}

// openAudit opens a gateway's audit log with the head that its database stores.
func openAudit(db *store.Store, path string) (*audit.Log, error) {
	head := db.Now().AuditHead()
	return audit.Open(audit.Config{Path: path, Expect: audit.Head{Seq: head.Seq, Hash: head.Hash}, Ended: head.Ended,
		Keep: func(c audit.Checkpoint, ended bool) error {
			return db.Update(func(tx *store.Tx) error {
				return tx.SetAuditHead(store.AuditHead{Seq: c.Seq, Hash: c.Hash, Ended: ended})
			})
		}})
}

// inspecting is held while this process has a token open: it can use one at a time.
var inspecting sync.Mutex

// checkObjects compares the token's objects with the records, while no gateway runs. The token must
// have both halves of each recorded key pair, and no other halves. Remains of objects whose
// creation was interrupted do not count.
func checkObjects(t *testing.T, dir string) {
	t.Helper()
	inspecting.Lock()
	defer inspecting.Unlock()
	soft, err := softhsm.Open(filepath.Join(dir, "softhsm"), nil)
	if err != nil {
		t.Fatal(err)
	}
	var objects []hsm.Object
	cfg := token.Config{Module: soft.Module, Label: softhsm.Label, PIN: token.PIN(soft.PIN())}
	want := recordedPairs(t, dir, cfg)
	err = token.Inspect(cfg, func(i hsm.Inspector) (err error) {
		objects, err = i.Objects(t.Context())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	unfinished := 0
	halves := make(map[string]int) // by CKA_ID
	for _, o := range objects {
		switch o.Purpose {
		case hsm.PurposeKey, hsm.PurposeAudit:
			if halves[string(o.ID)]++; !want[string(o.ID)] {
				t.Errorf("the token has a %s object with CKA_ID %x, which no record accounts for", o.Class, o.ID)
			}
		case hsm.PurposeNone:
			unfinished++
		}
	}
	for id := range want {
		if halves[id] != 2 {
			t.Errorf("got %d objects of the key pair with CKA_ID %x, want 2", halves[id], id)
		}
	}
	t.Logf("%d key pairs in the token, %d unfinished objects", len(want), unfinished)
}

// recordedPairs returns the CKA_IDs of all key pairs that must be in the token. There must be no
// records of orphans.
func recordedPairs(t *testing.T, dir string, cfg token.Config) map[string]bool {
	t.Helper()
	tok, err := token.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer tok.Close()
	db, err := store.Open(t.Context(), filepath.Join(dir, "kmsgate.db"), tok, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	pairs := make(map[string]bool)
	records := db.Now()
	pairs[string(records.AuditKey().ID)] = true
	for v := range records.Versions().All() {
		if v.Key.Sealed == nil {
			pairs[string(v.Key.ID)] = true
		}
	}
	for o := range records.Orphans().All() {
		t.Errorf("got the orphan %+v, want none", o)
		pairs[string(o.Key.ID)] = true
	}
	return pairs
}
