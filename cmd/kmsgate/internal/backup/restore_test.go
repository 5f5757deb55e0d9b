package backup_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/backup"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/backup/archive"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/internal/secret"
	"github.com/kmsgate/kmsgate/store"
)

// An age key for these tests.
const (
	testIdentity  = "AGE-SECRET-KEY-1L0NR8426NSYC0QA47NMPYKVZ8C9SGXSQYM5NYTTJVFYWMXDUWKKQZSXDU2\n"
	testRecipient = "age1xq33d62dfm0c6ypxy7cwtepe5k8kx2x3ya7nx3uzueka39nq6fzscxus4z"
)

func identities(t *testing.T, text string) []archive.Identity {
	t.Helper()
	all, err := archive.ParseIdentities(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func open(t *testing.T, c *config.Config, provision bool) *appliance.Appliance {
	t.Helper()
	a, err := appliance.Open(t.Context(), c, appliance.Options{Provision: provision, Archiver: backup.NewArchiver, Logger: config.Log{}.Quiet(t.Output())})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeNow(t, a) })
	return a
}

func closeNow(t *testing.T, a io.Closer) {
	t.Helper()
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

func call(t *testing.T, a *appliance.Appliance, action string, parameters map[string]string, answer any) {
	t.Helper()
	if err := a.Server.Call(t.Context(), action, parameters, answer); err != nil {
		t.Fatalf("%s: %v", action, err)
	}
}

// original makes an appliance with two keys, one in the token and one in software, and a
// user with an access key.
func original(t *testing.T) (a *appliance.Appliance, keyId string) {
	t.Helper()
	t.Setenv("SOFTHSM2_CONF", "") // opening sets it; the test's end puts it back
	text := "instance: {id: kst-test, region: cn-hangzhou, account: '1'}\ntoken: {softhsm: softhsm}\nlisteners: [{address: '127.0.0.1:0'}]\n"
	c, err := config.Parse([]byte(text), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	a = open(t, c, true)
	var made struct{ KeyMetadata struct{ KeyId string } }
	call(t, a, "CreateKey", map[string]string{"KeySpec": "EC_SM2"}, nil)
	call(t, a, "CreateKey", map[string]string{"KeySpec": "EC_P256"}, &made)
	call(t, a, "CreateUser", map[string]string{"UserName": "alice"}, nil)
	call(t, a, "CreateAccessKey", map[string]string{"UserName": "alice"}, nil)
	return a, made.KeyMetadata.KeyId
}

func written(t *testing.T, a *appliance.Appliance) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := backup.Write(t.Context(), a.Server, &b, []string{testRecipient}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func publicKey(t *testing.T, c *config.Config) audit.PublicKey {
	t.Helper()
	text, err := os.ReadFile(c.AuditPublicKeyFile())
	if err != nil {
		t.Fatal(err)
	}
	key, err := audit.ParsePublicKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// into returns the options of a restore that should succeed, into a new directory.
func into(t *testing.T) backup.RestoreOptions {
	t.Helper()
	return backup.RestoreOptions{
		Dir: filepath.Join(t.TempDir(), "restored"), Identities: identities(t, testIdentity),
		NewLogger: func(l config.Log) *slog.Logger { return l.Quiet(t.Output()) },
	}
}

// TestRoundTrip restores a backup whose maker it knows, and opens what it has made: the
// keys sign, and the audit log is whole from the backup's head on.
func TestRoundTrip(t *testing.T) {
	a, keyId := original(t)
	sealed, trusted := written(t, a), publicKey(t, a.Config)
	closeNow(t, a)
	o := into(t)
	o.Trusted = trusted
	restored, err := backup.Restore(t.Context(), bytes.NewReader(sealed), o)
	if err != nil {
		t.Fatal(err)
	}
	if p := restored.Verified; p.Keys != 2 || p.Versions != 2 || p.AccessKeys != 1 || p.Due != 0 {
		t.Errorf("it has tried %+v", p)
	}
	if restored.Dir != o.Dir || restored.TokenDir != "" || restored.Manifest.Instance != "instance kst-test in region cn-hangzhou of account 1" {
		t.Errorf("it tells %+v", restored)
	}
	c, err := config.Load(filepath.Join(o.Dir, config.FileName))
	if err != nil {
		t.Fatal(err)
	}
	if c.Store.File != filepath.Join(o.Dir, "kmsgate.db") || c.Admin.Socket != config.SocketIn(o.Dir) {
		t.Errorf("the configuration names files elsewhere: %+v", c)
	}
	if _, err := os.Stat(filepath.Join(o.Dir, "restoring")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the staging directory is left: %v", err)
	}
	again := open(t, c, false)
	if _, err := again.VerifyAll(t.Context()); err != nil {
		t.Error(err)
	}
	call(t, again, "DescribeKey", map[string]string{"KeyId": keyId}, nil)
	closeNow(t, again)
	log, err := os.Open(c.Audit.File)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	verified, err := audit.Verifier{Key: trusted, After: &restored.AuditHead}.Verify(audit.File{Name: "audit.log", Reader: log})
	if err != nil || verified.Restored == nil || verified.First.Seq != restored.AuditHead.Seq+1 {
		t.Errorf("the audit log: %+v, %v", verified, err)
	}
}

// TestPassphrase: a backup under a passphrase is opened by that, and the gateway never
// hears of it.
func TestPassphrase(t *testing.T) {
	const passphrase = secret.Text("correct horse battery staple")
	a, _ := original(t)
	var b bytes.Buffer
	if err := backup.WriteSealed(t.Context(), a.Server, &b, passphrase); err != nil {
		t.Fatal(err)
	}
	closeNow(t, a)
	log, err := os.ReadFile(a.Config.Audit.File)
	if err != nil || bytes.Contains(log, []byte("correct horse")) {
		t.Errorf("the audit log tells the passphrase, %v", err)
	}
	identity, err := archive.PassphraseIdentity(passphrase)
	if err != nil {
		t.Fatal(err)
	}
	o := into(t)
	o.Identities = []archive.Identity{identity}
	if _, err := backup.Restore(t.Context(), &b, o); err != nil {
		t.Error(err)
	}
}

// A broken is a gateway whose backup ends in the middle.
type broken struct{ sent []byte }

var errGateway = errors.New("503 the token is away")

func (b broken) Stream(_ context.Context, _ string, _ map[string]string, w io.Writer) error {
	_, _ = w.Write(b.sent)
	return errGateway
}

// TestGatewayFails: it is the gateway's error that is told, and not what became of its
// half of a backup.
func TestGatewayFails(t *testing.T) {
	for _, sent := range []string{"", "age-encryption.org/v1\n", strings.Repeat("x", 1<<20)} {
		if err := backup.WriteSealed(t.Context(), broken{[]byte(sent)}, io.Discard, "correct horse battery staple"); !errors.Is(err, errGateway) {
			t.Errorf("after %d bytes: %v", len(sent), err)
		}
	}
	if err := backup.Write(t.Context(), broken{}, io.Discard, []string{testRecipient}); !errors.Is(err, errGateway) {
		t.Error(err)
	}
}

// TestRefusals: each of these backups, and each of these directories, is refused, and the
// directory is as it was.
func TestRefusals(t *testing.T) {
	a, _ := original(t)
	sealed := written(t, a)
	closeNow(t, a)
	another, _ := original(t)
	foreign := publicKey(t, another.Config)
	closeNow(t, another)
	const otherIdentity = "AGE-SECRET-KEY-184JMZMVQH3E6U0PSL869004Y3U2NYV7R30EU99CSEDNPH02YUVFSZW44VU\n"
	for name, c := range map[string]struct {
		change func(o *backup.RestoreOptions, sealed []byte) []byte
		want   error
		text   string
	}{
		"another's key": {func(o *backup.RestoreOptions, b []byte) []byte { o.Trusted = foreign; return b }, archive.ErrForeign, ""},
		"no identity":   {func(o *backup.RestoreOptions, b []byte) []byte { o.Identities = identities(t, otherIdentity); return b }, archive.ErrClosed, ""},
		"cut off":       {func(_ *backup.RestoreOptions, b []byte) []byte { return b[:len(b)-1] }, archive.ErrBroken, ""},
		"changed": {func(_ *backup.RestoreOptions, b []byte) []byte {
			b = bytes.Clone(b)
			b[len(b)/2] ^= 1
			return b
		}, archive.ErrBroken, ""},
		"no backup": {func(*backup.RestoreOptions, []byte) []byte { return []byte("no backup") }, archive.ErrBroken, ""},
		"a directory with something": {func(o *backup.RestoreOptions, b []byte) []byte {
			if err := errors.Join(os.MkdirAll(o.Dir, 0o700), os.WriteFile(filepath.Join(o.Dir, "mine"), nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			return b
		}, nil, "is not empty: there is mine"},
	} {
		t.Run(name, func(t *testing.T) {
			o := into(t)
			b := c.change(&o, sealed)
			before, _ := os.ReadDir(o.Dir)
			_, err := backup.Restore(t.Context(), bytes.NewReader(b), o)
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("Restore: %v", err)
			}
			if after, _ := os.ReadDir(o.Dir); len(after) != len(before) {
				t.Errorf("there is %v, and was %v", after, before)
			}
		})
	}
}

// TestDirectoryInUse: a directory that a process has open is not restored into.
func TestDirectoryInUse(t *testing.T) {
	o := into(t)
	unlock, err := appliance.LockDirectory(o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Restore(t.Context(), strings.NewReader(""), o); !errors.Is(err, appliance.ErrInUse) {
		t.Errorf("Restore: %v", err)
	}
	if err := unlock(); err != nil {
		t.Error(err)
	}
}

// TestCanceled: a restore that is told to end leaves nothing.
func TestCanceled(t *testing.T) {
	a, _ := original(t)
	sealed := written(t, a)
	closeNow(t, a)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	o := into(t)
	if _, err := backup.Restore(ctx, bytes.NewReader(sealed), o); !errors.Is(err, context.Canceled) {
		t.Errorf("Restore: %v", err)
	}
	if _, err := os.Stat(o.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory is left: %v", err)
	}
}

// TestLostKeys: a backup of records whose keys are gone is restored only if that is
// accepted.
func TestLostKeys(t *testing.T) {
	a, _ := original(t)
	err := a.Store.Update(func(tx *store.Tx) error {
		for v := range a.Store.Now().Versions().All() {
			if v.Key.Sealed == nil {
				v.Key.ID = bytes.Repeat([]byte{7}, 16)
				return tx.Versions().Put(v)
			}
		}
		return errors.New("there is no key in the token")
	})
	if err != nil {
		t.Fatal(err)
	}
	sealed := written(t, a)
	closeNow(t, a)
	o := into(t)
	if _, err := backup.Restore(t.Context(), bytes.NewReader(sealed), o); err == nil || !strings.Contains(err.Error(), "The other 1 keys sign.") {
		t.Errorf("Restore: %v", err)
	}
	o.AcceptLostKeys = true
	restored, err := backup.Restore(t.Context(), bytes.NewReader(sealed), o)
	if err != nil || restored.Verified.Keys != 1 {
		t.Errorf("accepting it: %+v, %v", restored, err)
	}
}

// TestOwnLog: the audit log that the operator has kept goes on, and stays when the restore
// fails, while another instance's is refused and left alone.
func TestOwnLog(t *testing.T) {
	a, _ := original(t)
	sealed := written(t, a)
	closeNow(t, a)
	another, _ := original(t)
	closeNow(t, another)
	put := func(o backup.RestoreOptions, from *config.Config) (path, text string) {
		content, err := os.ReadFile(from.Audit.File)
		path = filepath.Join(o.Dir, "audit.log")
		if err := errors.Join(err, os.MkdirAll(o.Dir, 0o700), os.WriteFile(path, content, 0o600)); err != nil {
			t.Fatal(err)
		}
		return path, string(content)
	}
	o := into(t)
	path, before := put(o, a.Config)
	if _, err := backup.Restore(t.Context(), bytes.NewReader(sealed), o); err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(after), before) || len(after) == len(before) {
		t.Errorf("the log does not go on: %v", err)
	}
	o = into(t)
	path, before = put(o, another.Config)
	if _, err := backup.Restore(t.Context(), bytes.NewReader(sealed), o); err == nil || !strings.Contains(err.Error(), "take them away") {
		t.Errorf("with another's log: %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || string(after) != before {
		t.Errorf("another's log has changed: %v", err)
	}
}
