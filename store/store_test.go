package store_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
	"github.com/kmsgate/kmsgate/store/storetest"
)

var day = time.Date(2026, 11, 21, 20, 56, 37, 0, time.UTC)

func open(t *testing.T, path string) *store.Store {
	t.Helper()
	return openOn(t, new(storetest.Disk), path)
}

func openOn(t *testing.T, disk *storetest.Disk, path string) *store.Store {
	t.Helper()
	s, err := disk.Open(path)
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

// TestRoundTrip writes a record of every kind, reopens the file and reads them all.
func TestRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path)
	instance := store.Instance{InstanceId: "kst-1", RegionId: "cn-hangzhou", AccountId: "1000000000000001"}
	key := store.Key{KeyId: "k1", KeySpec: hsm.EC_SM2, KeyUsage: "SIGN/VERIFY", KeyState: store.Enabled,
		Description: "a b", CreationDate: day}
	older := store.KeyVersion{KeyId: "k1", KeyVersionId: "v2", CreationDate: day,
		Key: hsm.Key{ID: []byte{1}, Spec: hsm.EC_SM2, Public: []byte{2}, Sealed: []byte{3}}}
	newer := store.KeyVersion{KeyId: "k1", KeyVersionId: "v1", CreationDate: day.Add(time.Hour)}
	alias := store.Alias{AliasName: "alias/中 ~!", KeyId: "k1", CreationDate: day}
	user := store.User{UserName: "u", Comments: "c", Policies: []string{"p"},
		Quotas: map[string]float64{"asymmetric": 5}, CreationDate: day}
	access := store.AccessKey{AccessKeyId: "ak", UserName: "u", Sealed: []byte{4}, Active: true,
		CreationDate: day, LastUsedDate: day}
	policy := store.RamPolicy{PolicyName: "p", Description: "d", PolicyDocument: "{}",
		CreationDate: day, UpdateDate: day}
	outbox := store.Outbox{RequestId: "r", After: 7, Entry: []byte(`{"a":1}`)}
	auditKey := hsm.Key{ID: []byte{6}, Spec: hsm.EC_P256, Public: []byte{7}}
	auditHead := store.AuditHead{Seq: 8, Hash: "h", Time: day, Signature: []byte{9}}
	orphan := store.Orphan{KeyVersionId: "v3", Since: day, Key: hsm.Key{ID: []byte{5}, Spec: hsm.RSA_2048}}
	nonce := store.Nonce{AccessKeyId: "ak", Nonce: "n", Until: day}
	rule := store.NetworkRule{Name: "office", Description: "d", SourcePrivateIp: []string{"10.0.0.0/8"},
		CreationDate: day}
	permission := store.PermissionPolicy{Name: "sign", KmsInstance: "kst-1", Permissions: []string{"p"},
		Resources: []string{"key/*"}, NetworkRules: []string{"office"}, CreationDate: day}
	accessPoint := store.ApplicationAccessPoint{Name: "billing", Description: "d", Policies: []string{"sign"},
		CreationDate: day}
	clientKey := store.ClientKey{ClientKeyId: "KAAP.1", AapName: "billing", Certificate: []byte{10},
		NotBefore: day, NotAfter: day.Add(time.Hour), CreationDate: day}
	update(t, s, func(tx *store.Tx) error {
		return errors.Join(tx.SetInstance(instance), tx.SetAuditKey(auditKey), tx.SetAuditHead(auditHead),
			tx.Keys().Put(key), tx.Versions().Put(newer), tx.Versions().Put(older),
			tx.Versions().Put(store.KeyVersion{KeyId: "k10", KeyVersionId: "v9"}), // its KeyId has the prefix k1
			tx.Aliases().Create(alias), tx.Users().Put(user), tx.AccessKeys().Put(access), tx.Orphans().Put(orphan),
			tx.PutNonce(nonce, day.Add(-time.Hour)), tx.RamPolicies().Put(policy), tx.Outbox().Put(outbox),
			tx.NetworkRules().Put(rule), tx.PermissionPolicies().Put(permission),
			tx.AccessPoints().Put(accessPoint), tx.ClientKeys().Put(clientKey))
	})
	check := func(s *store.Store) {
		t.Helper()
		equal := func(want any, got any, err error) {
			t.Helper()
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				t.Errorf("%v: %s", err, diff)
			}
		}
		records := s.Now()
		equal(instance, records.Instance(), nil)
		gotKey, err := records.Keys().Get("k1")
		equal(key, gotKey, err)
		equal([]store.KeyVersion{older, newer}, records.VersionsOf("k1"), nil)
		gotVersion, err := records.Version("k1", "v2")
		equal(older, gotVersion, err)
		gotAlias, err := records.Aliases().Get(alias.AliasName)
		equal(alias, gotAlias, err)
		gotUser, err := records.Users().Get("u")
		equal(user, gotUser, err)
		gotAccess, err := records.AccessKeys().Get("ak")
		equal(access, gotAccess, err)
		equal([]store.Orphan{orphan}, slices.Collect(records.Orphans().All()), nil)
		equal([]store.User{user}, slices.Collect(records.Users().All()), nil)
		equal([]store.RamPolicy{policy}, slices.Collect(records.RamPolicies().All()), nil)
		equal([]store.Outbox{outbox}, slices.Collect(records.Outbox().All()), nil)
		equal(auditKey, records.AuditKey(), nil)
		equal(auditHead, records.AuditHead(), nil)
		equal([]store.Nonce{nonce}, slices.Collect(records.Nonces().All()), nil)
		gotRule, err := records.NetworkRules().Get("office")
		equal(rule, gotRule, err)
		gotPermission, err := records.PermissionPolicies().Get("sign")
		equal(permission, gotPermission, err)
		gotPoint, err := records.AccessPoints().Get("billing")
		equal(accessPoint, gotPoint, err)
		equal([]store.ClientKey{clientKey}, slices.Collect(records.ClientKeys().All()), nil)
	}
	check(s)
	s.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file mode: got %v, %v, want -rw-------", info.Mode(), err)
	}
	disk := new(storetest.Disk)
	s = openOn(t, disk, path)
	check(s)
	disk.FailCommit(errors.New("the flush failed")) // rewrites the file
	if err := s.Update(putAlias("alias/failed")); !errors.Is(err, store.ErrUnwritable) {
		t.Errorf("a failed commit: got %v, want ErrUnwritable", err)
	}
	check(s)
	s.Close()
	check(open(t, path))
}

// TestRerun checks that each change is made twice, and that what the first call wrote is discarded. Tests of
// other packages rely on that to find changes that cannot be repeated.
func TestRerun(t *testing.T) {
	s, calls := open(t, filepath.Join(t.TempDir(), "db")), 0
	update(t, s, func(tx *store.Tx) error {
		calls++
		return tx.Aliases().Create(store.Alias{AliasName: fmt.Sprint("call ", calls)})
	})
	if r := s.Now(); calls != 2 || r.Aliases().Has("call 1") || !r.Aliases().Has("call 2") {
		t.Errorf("got %d calls, want 2 and only the alias of the second; aliases: %+v", calls, r.Aliases().Page(0, 10))
	}
}

// TestAllOrNothing checks that a failed transaction changes nothing.
func TestAllOrNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path)
	update(t, s, func(tx *store.Tx) error { return tx.Aliases().Create(store.Alias{AliasName: "stays"}) })
	failure := errors.New("no")
	err := s.Update(func(tx *store.Tx) error {
		return errors.Join(tx.Keys().Put(store.Key{KeyId: "k"}), tx.Aliases().Delete("stays"), failure)
	})
	if !errors.Is(err, failure) {
		t.Errorf("Update: got %v, want the error of its function", err)
	}
	check := func(s *store.Store) {
		t.Helper()
		records := s.Now()
		_, keyErr := records.Keys().Get("k")
		_, aliasErr := records.Aliases().Get("stays")
		if !errors.Is(keyErr, store.ErrNotFound) || aliasErr != nil {
			t.Errorf("after a failed Update: key: got %v, want ErrNotFound; alias: got %v, want nil", keyErr, aliasErr)
		}
	}
	check(s)
	s.Close()
	check(open(t, path))
}

// TestSnapshot reads while others write and checks that the records returned by Now do not change.
func TestSnapshot(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	var writers sync.WaitGroup
	const updates, writerCount = 20, 4
	for w := range writerCount {
		writers.Go(func() {
			for i := range updates {
				err := s.Update(func(tx *store.Tx) error {
					id := fmt.Sprintf("%d-%d", w, i)
					return errors.Join(tx.Keys().Put(store.Key{KeyId: id}),
						tx.Aliases().Create(store.Alias{AliasName: id}))
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
				records := s.Now()
				k, a, p := records.Keys().Len(), records.Aliases().Len(), len(records.Keys().Page(0, 1000))
				if k != a || k != p {
					t.Errorf("got %d keys, %d aliases and a page of %d keys at one moment, want equal numbers", k, a, p)
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
	if n := s.Now().Keys().Len(); n != updates*writerCount {
		t.Errorf("got %d keys, want %d", n, updates*writerCount)
	}
}

func TestOneAliasOneKey(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	create := func(tx *store.Tx) error { return tx.Aliases().Create(store.Alias{AliasName: "alias/a"}) }
	update(t, s, create)
	if err := s.Update(create); !errors.Is(err, store.ErrExists) {
		t.Errorf("Create of an existing alias: got %v, want ErrExists", err)
	}
	update(t, s, func(tx *store.Tx) error { return tx.Aliases().Delete("alias/a") })
	update(t, s, func(tx *store.Tx) error { return tx.Aliases().Delete("alias/a") }) // deleting again succeeds
}

// TestDeleteKey checks that deleting a key also deletes its dependents, and nothing else.
func TestDeleteKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path)
	update(t, s, func(tx *store.Tx) error {
		return errors.Join(
			tx.Keys().Put(store.Key{KeyId: "k1"}), tx.Keys().Put(store.Key{KeyId: "k2"}),
			tx.Versions().Put(store.KeyVersion{KeyId: "k1", KeyVersionId: "v1", Key: hsm.Key{ID: []byte{1}}}),
			tx.Versions().Put(store.KeyVersion{KeyId: "k2", KeyVersionId: "v2"}),
			tx.Aliases().Create(store.Alias{AliasName: "alias/a", KeyId: "k1"}),
			tx.Aliases().Create(store.Alias{AliasName: "alias/b", KeyId: "k1"}),
			tx.Aliases().Create(store.Alias{AliasName: "alias/c", KeyId: "k2"}))
	})
	// An alias that was moved to another key belongs to that key.
	update(t, s, func(tx *store.Tx) error { return tx.Aliases().Put(store.Alias{AliasName: "alias/b", KeyId: "k2"}) })
	update(t, s, func(tx *store.Tx) error { return tx.Keys().Delete("k1") })
	s.Close()
	s = open(t, path)
	records := s.Now()
	_, err := records.Keys().Get("k1")
	if !errors.Is(err, store.ErrNotFound) || len(records.VersionsOf("k1")) != 0 ||
		len(records.AliasesOf("k1")) != 0 || records.Aliases().Len() != 2 {
		t.Errorf("deleted key: got %v, versions %v, aliases %v, want ErrNotFound, no versions and two aliases of k2",
			err, records.VersionsOf("k1"), records.Aliases().Page(0, 10))
	}
	orphans := slices.Collect(records.Orphans().All())
	if len(orphans) != 1 || orphans[0].KeyVersionId != "v1" || orphans[0].Since.IsZero() ||
		string(orphans[0].Key.ID) != "\x01" {
		t.Errorf("orphans: got %+v, want only version v1", orphans)
	}
	if len(records.VersionsOf("k2")) != 1 || len(records.AliasesOf("k2")) != 2 {
		t.Errorf("other key: got versions %v and aliases %v, want one version and two aliases",
			records.VersionsOf("k2"), records.AliasesOf("k2"))
	}
}

func TestPages(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	update(t, s, func(tx *store.Tx) error {
		for i := range 5 {
			if err := tx.Keys().Put(store.Key{KeyId: fmt.Sprint(i)}); err != nil {
				return err
			}
		}
		return nil
	})
	records := s.Now()
	var ids []string
	for _, k := range records.Keys().Page(3, 10) {
		ids = append(ids, k.KeyId)
	}
	if diff := cmp.Diff([]string{"3", "4"}, ids); diff != "" {
		t.Error(diff)
	}
	if empty := records.Keys().Page(5, 10); len(empty) != 0 {
		t.Errorf("page past the end: got %d keys, want none", len(empty))
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "db")
	s := open(t, path)
	if _, err := storetest.Open(path); !errors.Is(err, store.ErrLocked) {
		t.Errorf("Open of a locked file: got %v, want ErrLocked", err)
	}
	s.Close()
	put(t, path, "meta", "schema", "1000")
	if _, err := storetest.Open(path); err == nil || !strings.Contains(err.Error(), "newer kmsgate") {
		t.Errorf("Open of a newer schema: got %v, want \"newer kmsgate\"", err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(dir, "cut")
	if err := os.WriteFile(cut, whole[:3*os.Getpagesize()], 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = storetest.Open(cut)
	if !errors.Is(err, store.ErrDamaged) || !strings.Contains(err.Error(), "kmsgate restore") {
		t.Errorf("Open of a truncated file: got %v, want ErrDamaged and advice", err)
	}
	garbage := filepath.Join(dir, "garbage")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("garbage ", 4096)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := storetest.Open(garbage); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("Open of a file that is not a database: got %v, want ErrDamaged", err)
	}
}

// TestDeleteAccessPoint checks that deleting an access point deletes its client keys and no others.
func TestDeleteAccessPoint(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	update(t, s, func(tx *store.Tx) error {
		return errors.Join(
			tx.AccessPoints().Put(store.ApplicationAccessPoint{Name: "a"}),
			tx.AccessPoints().Put(store.ApplicationAccessPoint{Name: "b"}),
			tx.ClientKeys().Put(store.ClientKey{ClientKeyId: "1", AapName: "a"}),
			tx.ClientKeys().Put(store.ClientKey{ClientKeyId: "2", AapName: "b"}),
			tx.ClientKeys().Put(store.ClientKey{ClientKeyId: "3", AapName: "a"}))
	})
	update(t, s, func(tx *store.Tx) error { return tx.AccessPoints().Delete("a") })
	records := s.Now()
	want := []store.ClientKey{{ClientKeyId: "2", AapName: "b"}}
	if diff := cmp.Diff(want, slices.Collect(records.ClientKeys().All())); diff != "" {
		t.Error(diff)
	}
	_, err := records.AccessPoints().Get("a")
	if !errors.Is(err, store.ErrNotFound) || records.AccessPoints().Len() != 1 {
		t.Errorf("got %v and %d access points, want ErrNotFound and 1", err, records.AccessPoints().Len())
	}
}
