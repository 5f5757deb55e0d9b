package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/backup"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/backup/archive"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/hardware"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/store"
)

// An age key for this test.
const (
	testIdentity  = "AGE-SECRET-KEY-1L0NR8426NSYC0QA47NMPYKVZ8C9SGXSQYM5NYTTJVFYWMXDUWKKQZSXDU2\n"
	testRecipient = "age1xq33d62dfm0c6ypxy7cwtepe5k8kx2x3ya7nx3uzueka39nq6fzscxus4z"
)

// opened opens an instance on a new SoftHSM token.
func opened(t *testing.T, c *config.Config, o appliance.Options) *appliance.Appliance {
	t.Helper()
	o.Archiver, o.Logger = backup.NewArchiver, config.Log{}.Quiet(t.Output())
	a, err := hardware.Open(t.Context(), c, o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// dueKey writes a backup with a key whose deletion is due, and returns its KeyId.
func dueKey(t *testing.T, dir, backup string) (keyId string) {
	t.Helper()
	t.Setenv("SOFTHSM2_CONF", "") // put back in the end
	text := "instance: {id: kst-due, region: cn-hangzhou, account: '1'}\ntoken: {softhsm: softhsm}\nlisteners: [{address: '127.0.0.1:0'}]\n"
	c, err := config.Parse([]byte(text), dir)
	if err != nil {
		t.Fatal(err)
	}
	a := opened(t, c, appliance.Options{Provision: true})
	defer func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}()
	var made struct{ KeyMetadata struct{ KeyId string } }
	if err := a.Server.Call(t.Context(), "CreateKey", map[string]string{"KeySpec": "EC_P256"}, &made); err != nil {
		t.Fatal(err)
	}
	keyId = made.KeyMetadata.KeyId
	err = a.Store.Update(func(tx *store.Tx) error {
		k, err := tx.Keys().Get(keyId)
		k.KeyState, k.DeleteDate = store.PendingDeletion, time.Now().Add(-time.Hour).UTC()
		return errors.Join(err, tx.Keys().Put(k))
	})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(backup)
	if err != nil {
		t.Fatal(err)
	}
	err = a.Server.Stream(t.Context(), "CreateBackup", map[string]string{"Recipients.1": testRecipient}, f)
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
		target, flag string
		report       string
		state        string
	}{
		{"deleted", "--keep-due-keys=false", "Deleted at the first start, because the deletion fell due since the backup: 1 key.", ""},
		{"kept", "--keep-due-keys", "Enabled again, although the deletion fell due since the backup: 1 key.", store.Enabled},
	} {
		cmd := rootCommand(new(cli.TargetFlags))
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(t.Output())
		cmd.SetArgs([]string{"restore", path("backup.age"), "--target", path(tc.target), "--identity", path("key.txt"), "--unverified", tc.flag})
		if err := cmd.ExecuteContext(t.Context()); err != nil || !strings.Contains(out.String(), tc.report) {
			t.Fatalf("%s: %v, %s", tc.flag, err, &out)
		}
		c, err := config.Load(filepath.Join(path(tc.target), config.FileName))
		if err != nil {
			t.Fatal(err)
		}
		a := opened(t, c, appliance.Options{})
		var answer struct{ KeyMetadata struct{ KeyState string } }
		err = a.Server.Call(t.Context(), "DescribeKey", map[string]string{"KeyId": keyId}, &answer)
		if answer.KeyMetadata.KeyState != tc.state || (err == nil) != (tc.state != "") {
			t.Errorf("%s: the key is %s, %v", tc.flag, answer.KeyMetadata.KeyState, err)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
}

// forge makes a backup that is signed by a key of the forger's, as everybody can who
// knows the recipient.
func forge(t *testing.T, path string, files map[string]string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(digest []byte) ([]byte, error) { return ecdsa.SignASN1(rand.Reader, key, digest) }
	head := audit.Checkpoint{Head: audit.Head{Seq: 1, Hash: strings.Repeat("0", 64)}}
	if head.Signature, err = sign(head.Digest()); err != nil {
		t.Fatal(err)
	}
	recipients, err := archive.ParseRecipients(testRecipient)
	if err != nil {
		t.Fatal(err)
	}
	var sealed bytes.Buffer
	w, err := archive.NewWriter(&sealed, recipients...)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := w.Add(name, int64(len(content)), strings.NewReader(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(archive.Manifest{PublicKey: public, AuditHead: head.String()}, sign); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, sealed.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestForgedBackup restores what somebody has made who knows the recipient: without
// the audit public key not at all, and with --unverified no module is loaded that came with it or
// that another user can write, and no file comes to be that no backup has.
func TestForgedBackup(t *testing.T) {
	const configuration = "instance: {id: kst-forged, region: cn-hangzhou, account: '1'}\ntoken: {module: %s, label: kmsgate, pin_file: pin}\nlisteners: [{address: '127.0.0.1:0'}]\n"
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	err := errors.Join(os.WriteFile(path("key.txt"), []byte(testIdentity), 0o600),
		os.WriteFile(path("writable.so"), nil, 0o600), os.Chmod(path("writable.so"), 0o666))
	if err != nil {
		t.Fatal(err)
	}
	module := func(name string) map[string]string {
		return map[string]string{config.FileName: fmt.Sprintf(configuration, name), "pin": "1234"}
	}
	addFile := func(files map[string]string, name string) map[string]string {
		files[name] = "x"
		return files
	}
	for name, tc := range map[string]struct {
		files  map[string]string
		flags  []string
		report string
	}{
		"without the key":        {module("/nonexistent.so"), nil, "whose backup is it?"},
		"a module in it":         {addFile(module("softhsm/evil.so"), "softhsm/evil.so"), []string{"--unverified"}, "is in the target directory"},
		"a module, up and down":  {addFile(module("../restoring/pin"), "ca.pem"), []string{"--unverified"}, "is in the target directory"},
		"a module of all users":  {module(path("writable.so")), []string{"--unverified"}, `writable.so" is writable by all users`},
		"a file that is nothing": {addFile(module("/nonexistent.so"), "evil.so"), []string{"--unverified"}, `it has an unexpected file "evil.so"`},
		"an audit log":           {addFile(module("/nonexistent.so"), "audit.log"), []string{"--unverified"}, `it has an unexpected file "audit.log"`},
		"what a restore leaves":  {addFile(module("/nonexistent.so"), "restoring/x"), []string{"--unverified"}, "it has an unexpected file"},
	} {
		t.Run(name, func(t *testing.T) {
			forge(t, path("forged.age"), tc.files)
			cmd := rootCommand(new(cli.TargetFlags))
			cmd.SetErr(t.Output())
			cmd.SetArgs(append([]string{"restore", path("forged.age"), "--target", path("restored"), "--identity", path("key.txt")}, tc.flags...))
			if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), tc.report) {
				t.Errorf("restore: %v, want that it says %q", err, tc.report)
			}
			if _, err := os.Stat(path("restored")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("something was left: %v", err)
			}
		})
	}
}
