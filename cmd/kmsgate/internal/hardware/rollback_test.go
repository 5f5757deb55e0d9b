package hardware_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/hardware"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/store"
)

// extractOld extracts an instance that the last kmsgate with schema version 4 has written. It has an EC_P256
// and an EC_SM2 key, and an alias.
func extractOld(t *testing.T) *config.Config {
	t.Helper()
	t.Setenv("SOFTHSM2_CONF", "")
	dir := t.TempDir()
	if out, err := exec.Command("tar", "-xzf", "testdata/schema-4.tar.gz", "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	text := "instance: {id: kst-old, region: cn-hangzhou, account: '1'}\ntoken: {softhsm: softhsm}\nlisteners: [{address: '127.0.0.1:0'}]\n"
	c, err := config.Parse([]byte(text), dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestMigrated tests that Open migrates the database of an earlier version, logs where its copy is, and that all
// keys sign.
func TestMigrated(t *testing.T) {
	c := extractOld(t)
	var log bytes.Buffer
	o := options(t)
	o.Logger, _ = config.Log{Format: "text", Level: "info"}.Logger(&log)
	a := open(t, c, o)
	if verified, err := a.VerifyAll(t.Context()); err != nil || verified.Keys != 2 || !a.Store.Now().Aliases().Has("alias/old") {
		t.Errorf("got %+v, %v, want 2 keys that sign, and their alias", verified, err)
	}
	createKey(t, a)
	closeNow(t, a)
	want := fmt.Sprintf(`msg="the database was migrated" from=4 to=%d copy=%s.schema-4 advice=`, store.SchemaVersion, c.Store.File)
	if strings.Count(log.String(), want) != 1 {
		t.Errorf("Open of a database in an old version: got the log\n%s\nwant once %s", &log, want)
	}
	if _, err := os.Stat(c.Store.File + ".schema-4"); err != nil {
		t.Error(err)
	}
	log.Reset()
	closeNow(t, open(t, c, o))
	if strings.Contains(log.String(), "migrated") {
		t.Errorf("Open of a migrated database: got the log\n%s", &log)
	}
	// Without the changes that were made since, the old database is not migrated again.
	if err := os.Rename(c.Store.File+".schema-4", c.Store.File); err != nil {
		t.Fatal(err)
	}
	_ = expectRefused(t, c, options(t), "its records are not sealed")
	// A restore accepts it: an operator has chosen the backup that it is from.
	o = options(t)
	o.AcceptStoreRollback = true
	staged, err := hardware.OpenStaged(t.Context(), c, o)
	if err != nil {
		t.Fatal(err)
	}
	closeNow(t, staged)
}

// TestForgedOldVersion writes a database in an old version, whose records are not sealed, in place of a sealed
// one. Open must not believe it.
func TestForgedOldVersion(t *testing.T) {
	c := initialized(t)
	a := open(t, c, options(t))
	createKey(t, a)
	forged := filepath.Join(t.TempDir(), "forged")
	db, err := bbolt.Open(forged, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		put := func(bucket, id string, value []byte) error {
			b, err := tx.CreateBucketIfNotExists([]byte(bucket))
			if err != nil {
				return err
			}
			return b.Put([]byte(id), value)
		}
		err := store.Dump(a.Store.Now(), func(bucket, id string, record any) error {
			value, err := json.Marshal(record)
			return errors.Join(err, put(bucket, id, value))
		})
		return errors.Join(err, put("meta", "schema", []byte("2")))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	closeNow(t, a)
	if err := os.Rename(forged, c.Store.File); err != nil {
		t.Fatal(err)
	}
	_ = expectRefused(t, c, options(t), "its records are not sealed")
}

// TestStoreRollback replaces a database by an older one: a copy that was made while the gateway ran, and one
// that was made after a stop. Open refuses both, until the operator insists. Nothing that may have changed
// since is destroyed then.
func TestStoreRollback(t *testing.T) {
	for name, hot := range map[string]bool{"hot copy": true, "cold copy": false} {
		t.Run(name, func(t *testing.T) {
			c := initialized(t)
			a := open(t, c, options(t))
			due := endanger(t, a)
			if !hot {
				closeNow(t, a)
			}
			older, err := os.ReadFile(c.Store.File)
			if err != nil {
				t.Fatal(err)
			}
			if !hot {
				a = open(t, c, options(t))
			}
			lost := createKey(t, a)
			closeNow(t, a)
			if err := os.WriteFile(c.Store.File, older, 0o600); err != nil {
				t.Fatal(err)
			}
			_ = expectRefused(t, c, options(t), "start once with --accept-store-rollback")
			o := options(t)
			o.AcceptAuditLoss = true // does not accept a rollback, too
			_ = expectRefused(t, c, o, "start once with --accept-store-rollback")
			o = options(t)
			o.AcceptStoreRollback = true
			a = open(t, c, o)
			if a.Store.Now().Keys().Has(lost) || a.Store.Now().Keys().Len() != 2 {
				t.Error("the records are not those of the older database")
			}
			a.Server.CarryOutDeletions(t.Context())
			if k, err := a.Store.Now().Keys().Get(due); err != nil || k.KeyState == store.PendingDeletion {
				t.Errorf("the key whose deletion was due: got state %q, %v, want it kept", k.KeyState, err)
			}
			if verified, err := a.VerifyAll(t.Context()); err != nil || verified.Keys != 2 || a.Store.Now().Orphans().Len() != 0 {
				t.Errorf("got %+v, %v and %d orphans, want two keys that sign, and no orphan", verified, err, a.Store.Now().Orphans().Len())
			}
			closeNow(t, a)
			closeNow(t, open(t, c, options(t))) // it is the newest database now
			log, err := os.ReadFile(c.Audit.File)
			if err != nil || bytes.Count(log, []byte(`"RolledBack":{"Found":`)) != 1 {
				t.Errorf("the audit log does not tell of the rollback: %v\n%s", err, log)
			}
		})
	}
}

// endanger makes two keys. The deletion of one of them is due; the key pair of the other is recorded as an
// orphan, as it was while it was created.
func endanger(t *testing.T, a *appliance.Appliance) (due string) {
	t.Helper()
	due, created := createKey(t, a), createKey(t, a)
	err := a.Store.Update(func(tx *store.Tx) error {
		k, err := tx.Keys().Get(due)
		k.KeyState, k.DeleteDate = store.PendingDeletion, time.Now().Add(-time.Hour)
		v := tx.VersionsOf(created)[0]
		return errors.Join(err, tx.Keys().Put(k), tx.Orphans().Put(store.Orphan{KeyVersionId: v.KeyVersionId, Key: v.Key}))
	})
	if err != nil {
		t.Fatal(err)
	}
	return due
}

// TestAcceptedInVain opens a database that is not an older one, although the operator would accept one. A
// deletion that is due is carried out.
func TestAcceptedInVain(t *testing.T) {
	c := initialized(t)
	a := open(t, c, options(t))
	due := endanger(t, a)
	closeNow(t, a)
	o := options(t)
	o.AcceptStoreRollback = true
	a = open(t, c, o)
	a.Server.CarryOutDeletions(t.Context())
	if a.Store.Now().Keys().Has(due) {
		t.Error("the key whose deletion was due still exists")
	}
}

// TestReusedToken creates an instance in a token that has the number of an earlier one, whose keys are gone.
func TestReusedToken(t *testing.T) {
	c := initialized(t)
	a := open(t, c, options(t))
	for range 5 {
		createKey(t, a)
	}
	number := a.Store.Now().Number()
	closeNow(t, a)
	remove(t, c.Store.File, c.Audit.File, c.AuditPublicKeyFile(), c.TLS.CAKeyFile, c.TLS.CAFile)
	err := hardware.Device(c, options(t)).Inspect(func(i hsm.Inspector) error {
		objects, err := i.Objects(t.Context())
		for _, o := range objects {
			if o.Class != hsm.ClassData {
				err = errors.Join(err, i.DestroyObject(t.Context(), o))
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	o := options(t)
	o.Provision = true
	a = open(t, c, o)
	if got := a.Store.Now().Number(); got <= number {
		t.Errorf("the number of the new instance's last change is %d, want more than %d", got, number)
	}
	closeNow(t, a)
	closeNow(t, open(t, c, options(t)))
}
