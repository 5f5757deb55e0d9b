package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"

	"github.com/kmsgate/kmsgate/store"
	"github.com/kmsgate/kmsgate/store/storetest"
)

// raw changes a file without this package.
func raw(t *testing.T, path string, f func(tx *bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(f), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// put writes a value without this package.
func put(t *testing.T, path, bucket, id, value string) {
	t.Helper()
	raw(t, path, func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(bucket))
		if err != nil {
			return err
		}
		return b.Put([]byte(id), []byte(value))
	})
}

// makeOld makes a file of an earlier schema version, with all of its buckets but the missing ones.
func makeOld(t *testing.T, path, version string, records map[string]map[string]string, missing ...string) {
	t.Helper()
	raw(t, path, func(tx *bbolt.Tx) error {
		for _, bucket := range []string{"meta", "keys", "versions", "aliases", "users", "accesskeys", "orphans", "nonces",
			"policies", "outbox", "networkrules", "permissions", "accesspoints", "clientkeys", "retiredkeys"} {
			if slices.Contains(missing, bucket) {
				continue
			}
			b, err := tx.CreateBucket([]byte(bucket))
			for id, value := range records[bucket] {
				err = errors.Join(err, b.Put([]byte(id), []byte(value)))
			}
			if err != nil {
				return err
			}
		}
		return tx.Bucket([]byte("meta")).Put([]byte("schema"), []byte(version))
	})
}

// makeOldKey makes a file of schema version 3 with a key, and returns its content.
func makeOldKey(t *testing.T, path, keyId string) []byte {
	t.Helper()
	makeOld(t, path, "3", map[string]map[string]string{"keys": {keyId: `{"KeyId":"` + keyId + `"}`}})
	return read(t, path)
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// migrate opens a file and closes it. It wants Migrated to return from and copied.
func migrate(t *testing.T, path string, from int, copied string) {
	t.Helper()
	s := open(t, path)
	if gotFrom, gotCopy := s.Migrated(); gotFrom != from || gotCopy != copied {
		t.Errorf("Migrated: got %d, %q, want %d, %q", gotFrom, gotCopy, from, copied)
	}
	if s.Now().Keys().Len() != 1 {
		t.Errorf("got %d keys, want 1", s.Now().Keys().Len())
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestMigrationCopy checks that Open keeps a copy of a file that it migrates, in the old version, and
// one copy only if it is interrupted before the migration.
func TestMigrationCopy(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "db")
	old := makeOldKey(t, path, "k1")
	copied := path + ".schema-3"
	migrate(t, path, 3, copied)
	migrate(t, path, 0, "")
	info, err := os.Stat(copied)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode of the copy: got %v, %v, want 0600", info, err)
	}
	before := read(t, copied)
	opened := filepath.Join(dir, "opened") // bbolt changes a file that it opens
	write(t, opened, before)
	raw(t, opened, func(tx *bbolt.Tx) error {
		if version := tx.Bucket([]byte("meta")).Get([]byte("schema")); string(version) != "3" ||
			tx.Bucket([]byte("retiredkeys")) == nil || tx.Bucket([]byte("keys")).Get([]byte("k1")) == nil {
			t.Errorf("the copy has schema version %q, want 3, and all records", version)
		}
		return nil
	})
	write(t, path, old) // a kill before the migration leaves both files
	migrate(t, path, 3, copied)
	if !bytes.Equal(read(t, copied), before) {
		t.Error("the second migration changed the copy of the first")
	}
	write(t, path, before) // an operator goes back, and upgrades again
	migrate(t, path, 3, copied)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	makeOldKey(t, path, "k2")
	migrate(t, path, 3, copied+".2")
	names, err := filepath.Glob(path + "*")
	if err != nil || len(names) != 3 {
		t.Errorf("got the files %q, %v, want the database and two copies", names, err)
	}
}

// TestMigrationFails checks that a migration that fails, after the copy or because there can be none,
// leaves the old file unchanged.
func TestMigrationFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "db")
	makeOldKey(t, path, "k1")
	put(t, path, "keys", "k1", "{")
	old := read(t, path)
	if _, err := storetest.Open(path); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("Open with a damaged record: got %v, want ErrDamaged", err)
	}
	if !bytes.Equal(read(t, path), old) {
		t.Error("a migration that failed changed the file")
	}
	put(t, path, "keys", "k1", `{"KeyId":"k1"}`)
	migrate(t, path, 3, path+".schema-3.2")

	// The name is so long that the copy cannot be written.
	dir = t.TempDir()
	long, short := filepath.Join(dir, strings.Repeat("d", 242)), filepath.Join(dir, "db")
	old = makeOldKey(t, long, "k1")
	if _, err := storetest.Open(long); !errors.Is(err, syscall.ENAMETOOLONG) || !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("Open without a copy: got %v, want ENAMETOOLONG, and that nothing was changed", err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 || !bytes.Equal(read(t, long), old) {
		t.Errorf("a migration without a copy left %v, %v, want only the old file, unchanged", files, err)
	}
	if err := os.Rename(long, short); err != nil {
		t.Fatal(err)
	}
	migrate(t, short, 3, short+".schema-3")
}

// TestMigrate1 opens a file of schema version 1, in which a user has policy documents instead of
// names.
func TestMigrate1(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	const own = `{"Version":"1","Statement":[{"Effect":"Allow","Action":"kms:AsymmetricSign","Resource":"*"}]}`
	makeOld(t, path, "1", map[string]map[string]string{
		"meta": {"instance": `{"InstanceId":"kst-1","RegionId":"r","AccountId":"1"}`},
		"keys": {"k1": `{"KeyId":"k1","KeySpec":"EC_P256","KeyState":"Enabled"}`},
		"users": {
			"dev": `{"UserName":"dev","Policies":["{\"Version\":\"1\",\"Statement\":` +
				`[{\"Effect\":\"Allow\",\"Action\":\"kms:*\",\"Resource\":\"*\"}]}"],` +
				`"CreationDate":"2026-11-21T20:56:37Z"}`,
			"own": `{"UserName":"own","Policies":[` + fmt.Sprintf("%q", own) +
				`],"CreationDate":"2026-11-21T20:56:37Z"}`,
		},
		"accesskeys": {"ak": `{"AccessKeyId":"ak","UserName":"dev","Sealed":"BA==","Active":true,` +
			`"CreationDate":"2026-11-21T20:56:37Z"}`},
	}, "policies", "outbox", "networkrules", "permissions", "accesspoints", "clientkeys", "retiredkeys")
	for range 2 { // the second time the file is already migrated
		s := open(t, path)
		records := s.Now()
		want := []store.User{
			{UserName: "dev", Policies: []string{"AliyunKMSFullAccess"}, CreationDate: day},
			{UserName: "own", Policies: []string{"own-1"}, CreationDate: day},
		}
		if diff := cmp.Diff(want, slices.Collect(records.Users().All())); diff != "" {
			t.Error(diff)
		}
		wantPolicy := store.RamPolicy{PolicyName: "own-1", Description: "migrated from schema version 1",
			PolicyDocument: own, CreationDate: day, UpdateDate: day}
		if diff := cmp.Diff([]store.RamPolicy{wantPolicy}, slices.Collect(records.RamPolicies().All())); diff != "" {
			t.Error(diff)
		}
		if a, err := records.AccessKeys().Get("ak"); err != nil || !a.Active || records.Keys().Len() != 1 {
			t.Errorf("got access key %+v, %v and %d keys, want an active access key and 1 key",
				a, err, records.Keys().Len())
		}
		if records.Instance().InstanceId != "kst-1" {
			t.Errorf("got the instance %+v", records.Instance())
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestMigrate2 opens a file of schema version 2, which lacks the buckets for client keys. In a file
// of a later version such a missing bucket is damage.
func TestMigrate2(t *testing.T) {
	for version, want := range map[string]error{"2": nil, "3": store.ErrDamaged, "4": store.ErrDamaged} {
		path := filepath.Join(t.TempDir(), "db")
		makeOld(t, path, version, map[string]map[string]string{"keys": {"k1": `{"KeyId":"k1"}`}},
			"networkrules", "permissions", "accesspoints", "clientkeys")
		s, err := storetest.Open(path)
		if !errors.Is(err, want) {
			t.Errorf("Open of a file of version %s with missing buckets: got %v, want %v", version, err, want)
		}
		if err != nil {
			continue
		}
		update(t, s, func(tx *store.Tx) error {
			return tx.AccessPoints().Put(store.ApplicationAccessPoint{Name: "billing"})
		})
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if r := open(t, path).Now(); r.Keys().Len() != 1 || r.AccessPoints().Len() != 1 {
			t.Errorf("got %d keys and %d access points, want one of each", r.Keys().Len(), r.AccessPoints().Len())
		}
	}
}

// TestMigrateSeals migrates a file, and looks for its records in the clear in the new one.
func TestMigrateSeals(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	makeOld(t, path, "4", map[string]map[string]string{"keys": {"k1": `{"KeyId":"k1","Description":"merger with Initech"}`}},
		"retiredkeys")
	s := open(t, path)
	if k, err := s.Now().Keys().Get("k1"); err != nil || k.Description != "merger with Initech" {
		t.Errorf("got %+v, %v", k, err)
	}
	update(t, s, func(tx *store.Tx) error {
		return tx.Keys().Put(store.Key{KeyId: "k2", Description: "bid for Initrode"})
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"Initech", "Initrode"} {
		if bytes.Contains(read(t, path), []byte(secret)) {
			t.Errorf("%q is in the file in the clear", secret)
		}
	}
}
