package store_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

var day = time.Date(2026, 11, 21, 20, 56, 37, 0, time.UTC)

func open(t *testing.T, path string) *store.Store {
	t.Helper()
	s, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func update(t *testing.T, s *store.Store, f func(tx *store.Tx) error) {
	t.Helper()
	if err := s.Update(f); err != nil {
		t.Fatal(err)
	}
}

// TestRoundTrip writes a record of every kind, and reads them all from the file
// opened again.
func TestRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path)
	instance := store.Instance{InstanceId: "kst-1", RegionId: "cn-hangzhou", AccountId: "1000000000000001"}
	key := store.Key{KeyId: "k1", KeySpec: hsm.EC_SM2, KeyUsage: "SIGN/VERIFY", KeyState: store.Enabled, Description: "a b", CreationDate: day}
	older := store.KeyVersion{KeyId: "k1", KeyVersionId: "v2", CreationDate: day,
		Key: hsm.Key{ID: []byte{1}, Spec: hsm.EC_SM2, Public: []byte{2}, Sealed: []byte{3}}}
	newer := store.KeyVersion{KeyId: "k1", KeyVersionId: "v1", CreationDate: day.Add(time.Hour)}
	alias := store.Alias{AliasName: "alias/中 ~!", KeyId: "k1", CreationDate: day}
	user := store.User{UserName: "u", Comments: "c", Policies: []string{"p"}, Quotas: map[string]float64{"asymmetric": 5}, CreationDate: day}
	access := store.AccessKey{AccessKeyId: "ak", UserName: "u", Sealed: []byte{4}, Active: true, CreationDate: day, LastUsedDate: day}
	policy := store.Policy{PolicyName: "p", Description: "d", PolicyDocument: "{}", CreationDate: day, UpdateDate: day}
	outbox := store.Outbox{RequestId: "r", After: 7, Entry: []byte(`{"a":1}`)}
	auditKey := hsm.Key{ID: []byte{6}, Spec: hsm.EC_P256, Public: []byte{7}}
	auditHead := store.Head{Seq: 8, Hash: "h", Time: day, Signature: []byte{9}}
	orphan := store.Orphan{KeyVersionId: "v3", Since: day, Key: hsm.Key{ID: []byte{5}, Spec: hsm.RSA_2048}}
	nonce := store.Nonce{AccessKeyId: "ak", Nonce: "n", Until: day}
	rule := store.NetworkRule{Name: "office", Description: "d", SourcePrivateIp: []string{"10.0.0.0/8"}, CreationDate: day}
	permission := store.PermissionPolicy{Name: "sign", KmsInstance: "kst-1", Permissions: []string{"p"}, Resources: []string{"key/*"}, NetworkRules: []string{"office"}, CreationDate: day}
	accessPoint := store.ApplicationAccessPoint{Name: "billing", Description: "d", Policies: []string{"sign"}, CreationDate: day}
	clientKey := store.ClientKey{ClientKeyId: "KAAP.1", AapName: "billing", Certificate: []byte{10}, NotBefore: day, NotAfter: day.Add(time.Hour), CreationDate: day}
	update(t, s, func(tx *store.Tx) error {
		return errors.Join(tx.SetInstance(instance), tx.PutKey(key), tx.PutKeyVersion(newer), tx.PutKeyVersion(older),
			tx.PutKeyVersion(store.KeyVersion{KeyId: "k10", KeyVersionId: "v9"}), // k1 is a prefix of its key
			tx.CreateAlias(alias), tx.PutUser(user), tx.PutAccessKey(access), tx.PutOrphan(orphan), tx.PutNonce(nonce, day.Add(-time.Hour)),
			tx.PutPolicy(policy), tx.PutOutbox(outbox), tx.SetAuditKey(auditKey), tx.SetAuditHead(auditHead),
			tx.PutNetworkRule(rule), tx.PutPermissionPolicy(permission), tx.PutAccessPoint(accessPoint), tx.PutClientKey(clientKey))
	})
	check := func(s *store.Store) {
		t.Helper()
		equal := func(want any, got any, err error) {
			t.Helper()
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				t.Errorf("%v: %s", err, diff)
			}
		}
		s.View(func(tx *store.Tx) error {
			equal(instance, tx.Instance(), nil)
			gotKey, err := tx.Key("k1")
			equal(key, gotKey, err)
			equal([]store.KeyVersion{older, newer}, tx.KeyVersions("k1"), nil)
			gotVersion, err := tx.KeyVersion("k1", "v2")
			equal(older, gotVersion, err)
			gotAlias, err := tx.Alias(alias.AliasName)
			equal(alias, gotAlias, err)
			gotUser, err := tx.User("u")
			equal(user, gotUser, err)
			gotAccess, err := tx.AccessKey("ak")
			equal(access, gotAccess, err)
			equal([]store.Orphan{orphan}, tx.Orphans(), nil)
			equal([]store.User{user}, tx.Users(), nil)
			equal([]store.Policy{policy}, tx.Policies(), nil)
			equal([]store.Outbox{outbox}, tx.Outbox(), nil)
			equal(auditKey, tx.AuditKey(), nil)
			equal(auditHead, tx.AuditHead(), nil)
			equal([]store.Nonce{nonce}, tx.Nonces(), nil)
			gotRule, err := tx.NetworkRule("office")
			equal(rule, gotRule, err)
			gotPermission, err := tx.PermissionPolicy("sign")
			equal(permission, gotPermission, err)
			gotPoint, err := tx.AccessPoint("billing")
			equal(accessPoint, gotPoint, err)
			equal([]store.ClientKey{clientKey}, tx.ClientKeys(), nil)
			return nil
		})
	}
	check(s)
	s.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v, %v", info.Mode(), err)
	}
	check(open(t, path))
}

// TestAllOrNothing fails a transaction after it has changed records.
func TestAllOrNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path)
	update(t, s, func(tx *store.Tx) error { return tx.CreateAlias(store.Alias{AliasName: "stays"}) })
	failure := errors.New("no")
	err := s.Update(func(tx *store.Tx) error {
		return errors.Join(tx.PutKey(store.Key{KeyId: "k"}), tx.DeleteAlias("stays"), failure)
	})
	if !errors.Is(err, failure) {
		t.Errorf("Update: %v", err)
	}
	check := func(s *store.Store) {
		t.Helper()
		s.View(func(tx *store.Tx) error {
			_, keyErr := tx.Key("k")
			_, aliasErr := tx.Alias("stays")
			if !errors.Is(keyErr, store.ErrNotFound) || aliasErr != nil {
				t.Errorf("a failed Update left its changes: %v, %v", keyErr, aliasErr)
			}
			return nil
		})
	}
	check(s)
	s.Close()
	check(open(t, path))
}

// TestSnapshot reads while others write: what a View sees does not move.
func TestSnapshot(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	var writers sync.WaitGroup
	const each, of = 20, 4
	for w := range of {
		writers.Go(func() {
			for i := range each {
				err := s.Update(func(tx *store.Tx) error {
					id := fmt.Sprintf("%d-%d", w, i)
					return errors.Join(tx.PutKey(store.Key{KeyId: id}), tx.CreateAlias(store.Alias{AliasName: id}))
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	var readers sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				s.View(func(tx *store.Tx) error {
					if k, a := tx.CountKeys(), tx.CountAliases(); k != a || len(tx.Keys(0, 1000)) != k {
						t.Errorf("%d keys, %d aliases and %d listed at one moment", k, a, len(tx.Keys(0, 1000)))
					}
					return nil
				})
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
	s.View(func(tx *store.Tx) error {
		if n := tx.CountKeys(); n != each*of {
			t.Errorf("%d keys after %d were written", n, each*of)
		}
		return nil
	})
}

func TestOneAliasOneKey(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	create := func(tx *store.Tx) error { return tx.CreateAlias(store.Alias{AliasName: "alias/a"}) }
	update(t, s, create)
	if err := s.Update(create); !errors.Is(err, store.ErrExists) {
		t.Errorf("CreateAlias of a taken name: %v, want ErrExists", err)
	}
	update(t, s, func(tx *store.Tx) error { return tx.DeleteAlias("alias/a") })
	if err := s.Update(func(tx *store.Tx) error { return tx.DeleteAlias("alias/a") }); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("DeleteAlias of no alias: %v, want ErrNotFound", err)
	}
}

// TestDeleteKey takes a key away with all that belongs to it, and nothing else.
func TestDeleteKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path)
	update(t, s, func(tx *store.Tx) error {
		return errors.Join(
			tx.PutKey(store.Key{KeyId: "k1"}), tx.PutKey(store.Key{KeyId: "k2"}),
			tx.PutKeyVersion(store.KeyVersion{KeyId: "k1", KeyVersionId: "v1", Key: hsm.Key{ID: []byte{1}}}),
			tx.PutKeyVersion(store.KeyVersion{KeyId: "k2", KeyVersionId: "v2"}),
			tx.CreateAlias(store.Alias{AliasName: "alias/a", KeyId: "k1"}), tx.CreateAlias(store.Alias{AliasName: "alias/b", KeyId: "k1"}),
			tx.CreateAlias(store.Alias{AliasName: "alias/c", KeyId: "k2"}))
	})
	// An alias that is pointed elsewhere belongs there.
	update(t, s, func(tx *store.Tx) error { return tx.PutAlias(store.Alias{AliasName: "alias/b", KeyId: "k2"}) })
	update(t, s, func(tx *store.Tx) error { return tx.DeleteKey("k1", day) })
	s.Close()
	s = open(t, path)
	s.View(func(tx *store.Tx) error {
		_, err := tx.Key("k1")
		if !errors.Is(err, store.ErrNotFound) || len(tx.KeyVersions("k1")) != 0 || len(tx.AliasesOf("k1")) != 0 || tx.CountAliases() != 2 {
			t.Errorf("the key is not gone: %v, %v, %v", err, tx.KeyVersions("k1"), tx.Aliases(0, 10))
		}
		want := []store.Orphan{{KeyVersionId: "v1", Since: day, Key: hsm.Key{ID: []byte{1}}}}
		if diff := cmp.Diff(want, tx.Orphans()); diff != "" {
			t.Errorf("orphans: %s", diff)
		}
		if len(tx.KeyVersions("k2")) != 1 || len(tx.AliasesOf("k2")) != 2 {
			t.Errorf("the other key lost something: %v, %v", tx.KeyVersions("k2"), tx.AliasesOf("k2"))
		}
		return nil
	})
}

func TestPages(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	update(t, s, func(tx *store.Tx) error {
		for i := range 5 {
			if err := tx.PutKey(store.Key{KeyId: fmt.Sprint(i)}); err != nil {
				return err
			}
		}
		return nil
	})
	s.View(func(tx *store.Tx) error {
		var ids []string
		for _, k := range tx.Keys(3, 10) {
			ids = append(ids, k.KeyId)
		}
		if diff := cmp.Diff([]string{"3", "4"}, ids); diff != "" {
			t.Error(diff)
		}
		if past := tx.Keys(5, 10); len(past) != 0 {
			t.Errorf("%d keys past the end", len(past))
		}
		return nil
	})
}

// TestNoncesAreForgotten keeps the table from growing for ever.
func TestNoncesAreForgotten(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	for i := range 50 {
		now := day.Add(time.Duration(i) * time.Minute)
		update(t, s, func(tx *store.Tx) error {
			return tx.PutNonce(store.Nonce{Nonce: fmt.Sprint(i), Until: now.Add(10 * time.Minute)}, now)
		})
	}
	s.View(func(tx *store.Tx) error {
		if n := len(tx.Nonces()); n != 10 {
			t.Errorf("%d nonces are remembered, want those of the last 10 minutes", n)
		}
		return nil
	})
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "db")
	s := open(t, path)
	if _, err := store.Open(path); !errors.Is(err, store.ErrLocked) {
		t.Errorf("Open of an open file: %v, want ErrLocked", err)
	}
	s.Close()
	tamper := func(bucket, key, value string) {
		t.Helper()
		db, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte(bucket)).Put([]byte(key), []byte(value)) })
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
	}
	tamper("keys", "k1", "{")
	if _, err := store.Open(path); err == nil || !strings.Contains(err.Error(), `"k1" in keys`) {
		t.Errorf("Open with a damaged record: %v, want its name", err)
	}
	tamper("meta", "schema", "1000")
	if _, err := store.Open(path); err == nil || !strings.Contains(err.Error(), "newer kmsgate") {
		t.Errorf("Open of a newer schema: %v, want what to do", err)
	}
	garbage := filepath.Join(dir, "garbage")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("garbage ", 4096)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(garbage); err == nil {
		t.Error("Open of a file that is no database succeeded")
	}
}

// TestMigrate1 opens a file of schema version 1, as kmsgate wrote it: a user has
// documents where there are names of policies now.
func TestMigrate1(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	const own = `{"Version":"1","Statement":[{"Effect":"Allow","Action":"kms:AsymmetricSign","Resource":"*"}]}`
	err = db.Update(func(tx *bbolt.Tx) error {
		for bucket, records := range map[string]map[string]string{
			"meta": {"schema": "1", "instance": `{"InstanceId":"kst-1","RegionId":"r","AccountId":"1"}`},
			"keys": {"k1": `{"KeyId":"k1","KeySpec":"EC_P256","KeyState":"Enabled"}`}, "versions": {}, "aliases": {}, "orphans": {}, "nonces": {},
			"users": {
				"dev": `{"UserName":"dev","Policies":["{\"Version\":\"1\",\"Statement\":[{\"Effect\":\"Allow\",\"Action\":\"kms:*\",\"Resource\":\"*\"}]}"],"CreationDate":"2026-11-21T20:56:37Z"}`,
				"own": `{"UserName":"own","Policies":[` + fmt.Sprintf("%q", own) + `],"CreationDate":"2026-11-21T20:56:37Z"}`,
			},
			"accesskeys": {"ak": `{"AccessKeyId":"ak","UserName":"dev","Sealed":"BA==","Active":true,"CreationDate":"2026-11-21T20:56:37Z"}`},
		} {
			b, err := tx.CreateBucket([]byte(bucket))
			if err != nil {
				return err
			}
			for id, value := range records {
				if err := b.Put([]byte(id), []byte(value)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second finds it migrated
		s := open(t, path)
		s.View(func(tx *store.Tx) error {
			want := []store.User{{UserName: "dev", Policies: []string{"AliyunKMSFullAccess"}, CreationDate: day}, {UserName: "own", Policies: []string{"own-1"}, CreationDate: day}}
			if diff := cmp.Diff(want, tx.Users()); diff != "" {
				t.Error(diff)
			}
			wantPolicy := store.Policy{PolicyName: "own-1", Description: "of schema version 1", PolicyDocument: own, CreationDate: day, UpdateDate: day}
			if diff := cmp.Diff([]store.Policy{wantPolicy}, tx.Policies()); diff != "" {
				t.Error(diff)
			}
			if a, err := tx.AccessKey("ak"); err != nil || !a.Active || tx.CountKeys() != 1 {
				t.Errorf("%+v, %v, %d keys", a, err, tx.CountKeys())
			}
			return nil
		})
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestMigrate2 opens a file of schema version 2, which has no bucket for what client
// keys need; in one of this version such a bucket is missed.
func TestMigrate2(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path)
	update(t, s, func(tx *store.Tx) error { return tx.PutKey(store.Key{KeyId: "k1"}) })
	tamper := func(version string) {
		t.Helper()
		db, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bbolt.Tx) (err error) {
			for _, bucket := range []string{"networkrules", "permissions", "accesspoints", "clientkeys"} {
				err = errors.Join(err, tx.DeleteBucket([]byte(bucket)))
			}
			return errors.Join(err, tx.Bucket([]byte("meta")).Put([]byte("schema"), []byte(version)))
		})
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	tamper("2")
	s = open(t, path)
	update(t, s, func(tx *store.Tx) error {
		if tx.CountKeys() != 1 || tx.CountAccessPoints() != 0 {
			t.Errorf("%d keys, %d access points", tx.CountKeys(), tx.CountAccessPoints())
		}
		return tx.PutAccessPoint(store.ApplicationAccessPoint{Name: "billing"})
	})
	s.Close()
	tamper("4")
	if _, err := store.Open(path); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("Open of a file that lost buckets: %v, want ErrDamaged", err)
	}
}

// TestDeleteAccessPoint deletes one of two access points: its client keys go with it,
// and no other's.
func TestDeleteAccessPoint(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	update(t, s, func(tx *store.Tx) error {
		return errors.Join(
			tx.PutAccessPoint(store.ApplicationAccessPoint{Name: "a"}), tx.PutAccessPoint(store.ApplicationAccessPoint{Name: "b"}),
			tx.PutClientKey(store.ClientKey{ClientKeyId: "1", AapName: "a"}), tx.PutClientKey(store.ClientKey{ClientKeyId: "2", AapName: "b"}), tx.PutClientKey(store.ClientKey{ClientKeyId: "3", AapName: "a"}))
	})
	update(t, s, func(tx *store.Tx) error { return tx.DeleteAccessPoint("a") })
	s.View(func(tx *store.Tx) error {
		if diff := cmp.Diff([]store.ClientKey{{ClientKeyId: "2", AapName: "b"}}, tx.ClientKeys()); diff != "" {
			t.Error(diff)
		}
		if _, err := tx.AccessPoint("a"); !errors.Is(err, store.ErrNotFound) || tx.CountAccessPoints() != 1 {
			t.Errorf("%v, %d access points", err, tx.CountAccessPoints())
		}
		return nil
	})
}

// TestMigrate3 opens a database of the version that kept what was left of deleted
// client keys: that is dropped.
func TestMigrate3(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path)
	update(t, s, func(tx *store.Tx) error { return tx.PutKey(store.Key{KeyId: "k1"}) })
	s.Close()
	raw := func(f func(tx *bbolt.Tx) error) {
		t.Helper()
		db, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(db.Update(f), db.Close()); err != nil {
			t.Fatal(err)
		}
	}
	raw(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte("retiredkeys"))
		if err != nil {
			return err
		}
		return errors.Join(b.Put([]byte("1"), []byte(`{"ClientKeyId":"1"}`)), tx.Bucket([]byte("meta")).Put([]byte("schema"), []byte("3")))
	})
	s = open(t, path)
	update(t, s, func(tx *store.Tx) error {
		if tx.CountKeys() != 1 {
			t.Errorf("%d keys", tx.CountKeys())
		}
		return nil
	})
	s.Close()
	raw(func(tx *bbolt.Tx) error {
		if tx.Bucket([]byte("retiredkeys")) != nil {
			t.Error("the bucket of deleted client keys is still there")
		}
		return nil
	})
}
