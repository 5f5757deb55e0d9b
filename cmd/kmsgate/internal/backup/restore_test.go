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

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/backup"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/backup/archive"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/hardware"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/config"
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
	a, err := hardware.Open(t.Context(), c, appliance.Options{Provision: provision, Archiver: backup.NewArchiver,
		Logger: config.Log{}.Quiet(t.Output())})
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

// original creates an appliance with two keys, one in the token and one in software, and a user
// with an access key.
func original(t *testing.T) (a *appliance.Appliance, keyId string) {
	t.Helper()
	t.Setenv("SOFTHSM2_CONF", "") // Open sets it; the test restores it
	text := "instance: {id: kst-test, region: cn-hangzhou, account: '1'}\ntoken: {softhsm: softhsm}\nlisteners: [{address: '127.0.0.1:0'}]\n"
	c, err := config.Parse([]byte(text), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	a = open(t, c, true)
	var created struct{ KeyMetadata struct{ KeyId string } }
	call(t, a, "CreateKey", map[string]string{"KeySpec": "EC_SM2"}, nil)
	call(t, a, "CreateKey", map[string]string{"KeySpec": "EC_P256"}, &created)
	call(t, a, "CreateUser", map[string]string{"UserName": "alice"}, nil)
	call(t, a, "CreateAccessKey", map[string]string{"UserName": "alice"}, nil)
	return a, created.KeyMetadata.KeyId
}

func writeBackup(t *testing.T, a *appliance.Appliance) []byte {
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

// restoreOptions returns the options of a restore into a new directory.
func restoreOptions(t *testing.T) backup.RestoreOptions {
	t.Helper()
	return backup.RestoreOptions{
		Dir: filepath.Join(t.TempDir(), "restored"), Identities: identities(t, testIdentity),
		NewLogger: func(l config.Log) *slog.Logger { return l.Quiet(t.Output()) },
	}
}

// TestRoundTrip restores a backup with a trusted key and opens the result. The keys sign, and the
// audit log is complete from the backup's head on.
func TestRoundTrip(t *testing.T) {
	a, keyId := original(t)
	sealed, trusted := writeBackup(t, a), publicKey(t, a.Config)
	closeNow(t, a)
	o := restoreOptions(t)
	o.Trusted = trusted
	restored, err := backup.Restore(t.Context(), bytes.NewReader(sealed), o)
	if err != nil {
		t.Fatal(err)
	}
	if p := restored.Verified; p.Keys != 2 || p.Versions != 2 || p.AccessKeys != 1 || p.Due != 0 {
		t.Errorf("Verified: got %+v, want 2 keys, 2 versions and 1 access key", p)
	}
	if restored.Dir != o.Dir || restored.TokenDir != "" || restored.Manifest.Instance != "instance kst-test in region cn-hangzhou of account 1" {
		t.Errorf("Restore: got %+v", restored)
	}
	c, err := config.Load(filepath.Join(o.Dir, config.FileName))
	if err != nil {
		t.Fatal(err)
	}
	if c.Store.File != filepath.Join(o.Dir, "kmsgate.db") || c.Admin.Socket != config.SocketIn(o.Dir) {
		t.Errorf("the configuration names files outside %q: %+v", o.Dir, c)
	}
	if _, err := os.Stat(filepath.Join(o.Dir, "restoring")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the staging directory: got %v, want fs.ErrNotExist", err)
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
	verified, err := audit.Verifier{Key: trusted, After: &restored.AuditHead}.Verify(audit.File{Name: "audit.log",
		Reader: log})
	if err != nil || verified.Restored == nil || verified.First.Seq != restored.AuditHead.Seq+1 {
		t.Errorf("Verify of the audit log: got %+v, %v, want a log restored after line %d", verified, err,
			restored.AuditHead.Seq)
	}
}

// TestPassphrase tests that the passphrase decrypts a backup, and that the gateway never sees the
// passphrase.
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
		t.Errorf("the audit log contains the passphrase: %v", err)
	}
	identity, err := archive.PassphraseIdentity(passphrase)
	if err != nil {
		t.Fatal(err)
	}
	o := restoreOptions(t)
	o.Identities = []archive.Identity{identity}
	if _, err := backup.Restore(t.Context(), &b, o); err != nil {
		t.Error(err)
	}
}

// A brokenGateway fails in the middle of a backup.
type brokenGateway struct{ sent []byte }

var errGateway = errors.New("503 the token is disconnected")

func (b brokenGateway) Stream(_ context.Context, _ string, _ map[string]string, w io.Writer) error {
	_, _ = w.Write(b.sent)
	return errGateway
}

// TestGatewayFails tests that Write and WriteSealed return the gateway's error, and not the error
// of decrypting an incomplete backup.
func TestGatewayFails(t *testing.T) {
	for _, sent := range []string{"", "age-encryption.org/v1\n", strings.Repeat("x", 1<<20)} {
		if err := backup.WriteSealed(t.Context(), brokenGateway{[]byte(sent)}, io.Discard,
			"correct horse battery staple"); !errors.Is(err, errGateway) {
			t.Errorf("WriteSealed after %d bytes: got %v, want %v", len(sent), err, errGateway)
		}
	}
	if err := backup.Write(t.Context(), brokenGateway{}, io.Discard, []string{testRecipient}); !errors.Is(err,
		errGateway) {
		t.Errorf("Write: got %v, want %v", err, errGateway)
	}
}

// TestRefusals tests that Restore refuses these backups and directories, and leaves the directory
// unchanged.
func TestRefusals(t *testing.T) {
	a, _ := original(t)
	sealed := writeBackup(t, a)
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
		"another's key": {func(o *backup.RestoreOptions, b []byte) []byte { o.Trusted = foreign; return b },
			archive.ErrForeign, ""},
		"no identity": {func(o *backup.RestoreOptions, b []byte) []byte {
			o.Identities = identities(t,
				otherIdentity)
			return b
		}, archive.ErrClosed, ""},
		"cut off": {func(_ *backup.RestoreOptions, b []byte) []byte { return b[:len(b)-1] }, archive.ErrBroken,
			""},
		"changed": {func(_ *backup.RestoreOptions, b []byte) []byte {
			b = bytes.Clone(b)
			b[len(b)/2] ^= 1
			return b
		}, archive.ErrBroken, ""},
		"no backup": {func(*backup.RestoreOptions, []byte) []byte { return []byte("no backup") }, archive.ErrBroken,
			""},
		"a directory with a file": {func(o *backup.RestoreOptions, b []byte) []byte {
			if err := errors.Join(os.MkdirAll(o.Dir, 0o700), os.WriteFile(filepath.Join(o.Dir, "mine"), nil,
				0o600)); err != nil {
				t.Fatal(err)
			}
			return b
		}, nil, `is not empty: it has "mine"`},
	} {
		t.Run(name, func(t *testing.T) {
			o := restoreOptions(t)
			b := c.change(&o, sealed)
			before, _ := os.ReadDir(o.Dir)
			_, err := backup.Restore(t.Context(), bytes.NewReader(b), o)
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("Restore: got %v, want %v with %q", err, c.want, c.text)
			}
			if after, _ := os.ReadDir(o.Dir); len(after) != len(before) {
				t.Errorf("the directory has %v, want %v", after, before)
			}
		})
	}
}

// TestDirectoryInUse tests that Restore refuses a directory that another process has locked.
func TestDirectoryInUse(t *testing.T) {
	o := restoreOptions(t)
	unlock, err := appliance.LockDirectory(o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Restore(t.Context(), strings.NewReader(""), o); !errors.Is(err, appliance.ErrInUse) {
		t.Errorf("Restore: got %v, want ErrInUse", err)
	}
	if err := unlock(); err != nil {
		t.Error(err)
	}
}

// TestCanceled tests that a canceled Restore leaves nothing.
func TestCanceled(t *testing.T) {
	a, _ := original(t)
	sealed := writeBackup(t, a)
	closeNow(t, a)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	o := restoreOptions(t)
	if _, err := backup.Restore(ctx, bytes.NewReader(sealed), o); !errors.Is(err, context.Canceled) {
		t.Errorf("Restore: got %v, want context.Canceled", err)
	}
	if _, err := os.Stat(o.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory: got %v, want fs.ErrNotExist", err)
	}
}

// TestLostKeys tests that Restore refuses a backup with lost keys, unless the loss is accepted.
func TestLostKeys(t *testing.T) {
	a, _ := original(t)
	err := a.Store.Update(func(tx *store.Tx) error {
		for v := range a.Store.Now().Versions().All() {
			if v.Key.Sealed == nil {
				v.Key.ID = bytes.Repeat([]byte{7}, 16)
				return tx.Versions().Put(v)
			}
		}
		return errors.New("the token has no key")
	})
	if err != nil {
		t.Fatal(err)
	}
	sealed := writeBackup(t, a)
	closeNow(t, a)
	o := restoreOptions(t)
	if _, err := backup.Restore(t.Context(), bytes.NewReader(sealed), o); err == nil ||
		!strings.Contains(err.Error(), "The other 1 keys sign.") {
		t.Errorf("Restore: got %v, want an error about lost keys", err)
	}
	o.AcceptLostKeys = true
	restored, err := backup.Restore(t.Context(), bytes.NewReader(sealed), o)
	if err != nil || restored.Verified.Keys != 1 {
		t.Errorf("Restore with AcceptLostKeys: got %+v, %v, want 1 key", restored, err)
	}
}

// TestPlantedAuditKey tests that Restore refuses records with the audit log's key in a key version,
// even if lost keys are accepted.
func TestPlantedAuditKey(t *testing.T) {
	a, keyId := original(t)
	auditKey := a.Store.Now().AuditKey()
	id, err := uuid.FromBytes(auditKey.ID)
	if err != nil {
		t.Fatal(err)
	}
	err = a.Store.Update(func(tx *store.Tx) error {
		return tx.Versions().Put(store.KeyVersion{KeyId: keyId, KeyVersionId: id.String(), Key: auditKey})
	})
	if err != nil {
		t.Fatal(err)
	}
	sealed := writeBackup(t, a)
	closeNow(t, a)
	o := restoreOptions(t)
	o.AcceptLostKeys = true
	if _, err := backup.Restore(t.Context(), bytes.NewReader(sealed), o); err == nil ||
		!strings.Contains(err.Error(), "holds the audit log's key") {
		t.Errorf("Restore: got %v, want an error about the audit log's key", err)
	}
	if _, err := os.Stat(o.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory: got %v, want fs.ErrNotExist", err)
	}
}

// TestOwnLog tests that Restore continues the operator's copy of the audit log, and refuses the
// log of another instance without changing it.
func TestOwnLog(t *testing.T) {
	a, _ := original(t)
	sealed := writeBackup(t, a)
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
	o := restoreOptions(t)
	path, before := put(o, a.Config)
	if _, err := backup.Restore(t.Context(), bytes.NewReader(sealed), o); err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(after), before) ||
		len(after) == len(before) {
		t.Errorf("Restore did not continue the log: %v", err)
	}
	o = restoreOptions(t)
	path, before = put(o, another.Config)
	if _, err := backup.Restore(t.Context(), bytes.NewReader(sealed), o); err == nil ||
		!strings.Contains(err.Error(), "move them away") {
		t.Errorf("Restore with another instance's log: got %v, want an error", err)
	}
	if after, err := os.ReadFile(path); err != nil || string(after) != before {
		t.Errorf("Restore changed another instance's log: %v", err)
	}
}
