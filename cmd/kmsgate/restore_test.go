package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/config"
	"github.com/kmsgate/kmsgate/store"
)

// An age key for this test.
const (
	testIdentity  = "AGE-SECRET-KEY-1L0NR8426NSYC0QA47NMPYKVZ8C9SGXSQYM5NYTTJVFYWMXDUWKKQZSXDU2\n"
	testRecipient = "age1xq33d62dfm0c6ypxy7cwtepe5k8kx2x3ya7nx3uzueka39nq6fzscxus4z"
)

// opened opens an instance on a SoftHSM token of its own.
func opened(t *testing.T, c *config.Config, m mode) *instance {
	t.Helper()
	i, err := openInstance(t.Context(), c, m, newLogger(t.Output(), config.Log{Level: "warn"}))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// dueKey gives a key in a backup whose deletion is due.
func dueKey(t *testing.T, dir, backup string) (keyId string) {
	t.Helper()
	t.Setenv("SOFTHSM2_CONF", "") // put back in the end
	text := "instance: {id: kst-due, region: cn-hangzhou, account: '1'}\ntoken: {softhsm: softhsm}\nlisteners: [{address: '127.0.0.1:0'}]\n"
	c, err := config.Parse([]byte(text), dir)
	if err != nil {
		t.Fatal(err)
	}
	i := opened(t, c, mode{provision: true})
	defer func() {
		if err := (stopped{i}).Close(); err != nil {
			t.Error(err)
		}
	}()
	var made struct{ KeyMetadata struct{ KeyId string } }
	if err := i.server.Call(t.Context(), "CreateKey", map[string]string{"KeySpec": "EC_P256"}, &made); err != nil {
		t.Fatal(err)
	}
	keyId = made.KeyMetadata.KeyId
	err = i.db.Update(func(tx *store.Tx) error {
		k, err := tx.Key(keyId)
		k.KeyState, k.DeleteDate = store.PendingDeletion, time.Now().Add(-time.Hour).UTC()
		return errors.Join(err, tx.PutKey(k))
	})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(backup)
	if err != nil {
		t.Fatal(err)
	}
	err = i.server.Stream(t.Context(), "CreateBackup", map[string]string{"Recipients.1": testRecipient}, f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return keyId
}

// TestKeepDueKeys restores a backup in which a key's deletion has fallen due: it is
// deleted at the first start, or with --keep-due-keys enabled.
func TestKeepDueKeys(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	keyId := dueKey(t, path("first"), path("backup.age"))
	if err := os.WriteFile(path("key.txt"), []byte(testIdentity), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		to, flag string
		told     string
		state    string
	}{
		{"deleted", "--keep-due-keys=false", "deleted when it starts, for their time has come since the backup was made: 1", ""},
		{"kept", "--keep-due-keys", "enabled again: 1", store.Enabled},
	} {
		cmd := restoreCommand()
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(t.Output())
		cmd.SetArgs([]string{path("backup.age"), "--dir", path(tc.to), "--identity", path("key.txt"), tc.flag})
		if err := cmd.ExecuteContext(t.Context()); err != nil || !strings.Contains(out.String(), tc.told) {
			t.Fatalf("%s: %v, %s", tc.flag, err, &out)
		}
		c, err := config.Load(filepath.Join(path(tc.to), archivedConfig))
		if err != nil {
			t.Fatal(err)
		}
		i := opened(t, c, mode{})
		var answer struct{ KeyMetadata struct{ KeyState string } }
		err = i.server.Call(t.Context(), "DescribeKey", map[string]string{"KeyId": keyId}, &answer)
		if answer.KeyMetadata.KeyState != tc.state || (err == nil) != (tc.state != "") {
			t.Errorf("%s: the key is %s, %v", tc.flag, answer.KeyMetadata.KeyState, err)
		}
		if err := (stopped{i}).Close(); err != nil {
			t.Error(err)
		}
	}
}
