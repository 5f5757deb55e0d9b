package hardware_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/hardware"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/keypair"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/ca"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/internal/servercert/servercerttest"
	"github.com/kmsgate/kmsgate/store"
)

// newConfig returns the configuration of an appliance with a SoftHSM token. Neither exists yet.
func newConfig(t *testing.T) *config.Config {
	t.Helper()
	t.Setenv("SOFTHSM2_CONF", "") // Open sets it; the test restores it
	text := "instance: {id: kst-test, region: cn-hangzhou, account: '1'}\ntoken: {softhsm: softhsm}\nlisteners: [{address: '127.0.0.1:0'}]\n"
	c, err := config.Parse([]byte(text), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func options(t *testing.T) appliance.Options {
	t.Helper()
	return appliance.Options{Logger: config.Log{}.Quiet(t.Output())}
}

// open opens an appliance, and closes it at the end of the test.
func open(t *testing.T, c *config.Config, o appliance.Options) *appliance.Appliance {
	t.Helper()
	a, err := hardware.Open(t.Context(), c, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeNow(t, a) })
	return a
}

func closeNow(t *testing.T, a *appliance.Appliance) {
	t.Helper()
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// initialized creates an appliance and closes it.
func initialized(t *testing.T) *config.Config {
	t.Helper()
	c, o := newConfig(t), options(t)
	o.Provision = true
	closeNow(t, open(t, c, o))
	return c
}

// expectRefused expects Open to return an error that contains want, and to leave the directory
// unlocked.
func expectRefused(t *testing.T, c *config.Config, o appliance.Options, want string) error {
	t.Helper()
	a, err := hardware.Open(t.Context(), c, o)
	if err == nil {
		closeNow(t, a)
	}
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Open: %v, want an error with %q", err, want)
	}
	if unlock, lockErr := appliance.LockDirectory(c.Directory); lockErr != nil {
		t.Errorf("LockDirectory after an error of Open: %v", lockErr)
	} else if err := unlock(); err != nil {
		t.Error(err)
	}
	return err
}

func createKey(t *testing.T, a *appliance.Appliance) (keyId string) {
	t.Helper()
	var created struct{ KeyMetadata struct{ KeyId string } }
	if err := a.Server.Call(t.Context(), "CreateKey", map[string]string{"KeySpec": "EC_P256"}, &created); err != nil {
		t.Fatal(err)
	}
	return created.KeyMetadata.KeyId
}

func remove(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOpenTwice tests that an appliance can be open once at a time, and that a later Open finds
// its keys.
func TestOpenTwice(t *testing.T) {
	c, o := newConfig(t), options(t)
	o.Provision = true
	first := open(t, c, o)
	keyId, public := createKey(t, first), first.AuditPublicKey()
	if _, err := hardware.Open(t.Context(), c, o); !errors.Is(err, appliance.ErrInUse) ||
		!strings.Contains(err.Error(), c.Directory) {
		t.Errorf("Open of an open appliance: got %v, want ErrInUse with the directory", err)
	}
	closeNow(t, first)
	closeNow(t, first) // a second Close does nothing

	second := open(t, c, options(t))
	if !bytes.Equal(second.AuditPublicKey(), public) {
		t.Error("the second Open has another audit key")
	}
	if err := second.Server.Call(t.Context(), "DescribeKey", map[string]string{"KeyId": keyId}, nil); err != nil {
		t.Error(err)
	}
	proof, err := second.VerifyAll(t.Context())
	if err != nil || proof.Keys != 1 || proof.Versions != 1 {
		t.Errorf("VerifyAll: got %+v, %v, want 1 key with 1 version", proof, err)
	}
}

// TestAuditKey tests that the file for auditors verifies the audit key's signatures, and that
// Open refuses another instance's file.
func TestAuditKey(t *testing.T) {
	c, o := newConfig(t), options(t)
	o.Provision = true
	a := open(t, c, o)
	text, err := os.ReadFile(c.AuditPublicKeyFile())
	if err != nil {
		t.Fatal(err)
	}
	key, err := audit.ParsePublicKey(text)
	if err != nil {
		t.Fatal(err)
	}
	digest := bytes.Repeat([]byte{7}, 32)
	signature, err := a.SignWithAuditKey(t.Context(), digest)
	if err != nil || !audit.Signed(key, digest, signature) {
		t.Errorf("SignWithAuditKey: got %v or an invalid signature", err)
	}
	closeNow(t, a)
	other := initialized(t)
	foreign, err := os.ReadFile(other.AuditPublicKeyFile())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.AuditPublicKeyFile(), foreign, 0o600); err != nil {
		t.Fatal(err)
	}
	_ = expectRefused(t, c, options(t), "does not match the database")
}

// TestPlantedAuditKey plants the audit log's key in the record of a user's key. The gateway does not
// sign with it, not even the digest of a checkpoint, and does not start with such a record.
func TestPlantedAuditKey(t *testing.T) {
	c, o := newConfig(t), options(t)
	o.Provision = true
	a := open(t, c, o)
	auditKey := a.Store.Now().AuditKey()
	id, err := uuid.FromBytes(auditKey.ID)
	if err != nil {
		t.Fatal(err)
	}
	planted := store.KeyVersion{KeyId: createKey(t, a), KeyVersionId: id.String(), Key: auditKey}
	if err := a.Store.Update(func(tx *store.Tx) error { return tx.Versions().Put(planted) }); err != nil {
		t.Fatal(err)
	}
	checkpoint := audit.Checkpoint{Head: audit.Head{Seq: 1, Hash: strings.Repeat("0", 64)}}
	request := kms.AdminRequest{Action: "AsymmetricSign", AsAdministrator: true, Parameters: map[string]string{
		"KeyId": planted.KeyId, "KeyVersionId": planted.KeyVersionId, "Algorithm": string(hsm.ECDSA_SHA_256),
		"Digest": base64.StdEncoding.EncodeToString(checkpoint.Digest()),
	}}
	if err := a.Server.Do(t.Context(), request, nil); !errors.Is(err, kms.ErrKeyUnavailable) {
		t.Errorf("AsymmetricSign with the planted record: got %v, want %v", err, kms.ErrKeyUnavailable)
	}
	if _, err := a.SignWithAuditKey(t.Context(), checkpoint.Digest()); err != nil {
		t.Errorf("SignWithAuditKey: %v", err)
	}
	closeNow(t, a)
	_ = expectRefused(t, c, options(t), "holds the audit log's key")
}

// TestNotInitialized tests that Open without Provision creates nothing but the lock.
func TestNotInitialized(t *testing.T) {
	c := newConfig(t)
	if err := expectRefused(t, c, options(t), "kmsgate init"); !errors.Is(err, appliance.ErrNotInitialized) {
		t.Errorf("Open: got %v, want ErrNotInitialized", err)
	}
	entries, err := os.ReadDir(c.Directory)
	if err != nil || len(entries) != 1 || entries[0].Name() != "lock" {
		t.Errorf("Open created %v, %v, want only the lock", entries, err)
	}
}

// TestLocked tests that Open calls the hook before it creates anything, and returns its error.
func TestLocked(t *testing.T) {
	c, o := newConfig(t), options(t)
	errHook := errors.New("refused by the hook")
	o.Provision, o.Locked = true, func() error {
		if _, err := appliance.LockDirectory(c.Directory); !errors.Is(err, appliance.ErrInUse) {
			t.Errorf("the directory is not locked: %v", err)
		}
		if _, err := os.Stat(c.Store.File); err == nil {
			t.Error("the database exists already")
		}
		return errHook
	}
	if err := expectRefused(t, c, o, errHook.Error()); !errors.Is(err, errHook) {
		t.Errorf("Open: %v", err)
	}
}

// TestForeignToken tests that Open refuses the token of another appliance, and creates no token
// in place of a missing one.
func TestForeignToken(t *testing.T) {
	c, other := initialized(t), initialized(t)
	own := c.Token.SoftHSM
	c.Token.SoftHSM = other.Token.SoftHSM
	err := expectRefused(t, c, options(t), "restore token and database from a backup")
	if !errors.Is(err, keypair.ErrForeignToken) && !errors.Is(err, hsm.ErrNotOurs) {
		t.Errorf("Open with another appliance's token: got %v, want ErrForeignToken or ErrNotOurs", err)
	}
	c.Token.SoftHSM = filepath.Join(c.Directory, "none")
	o := options(t)
	o.Provision = true
	_ = expectRefused(t, c, o, "does not exist")
	if _, err := os.Stat(c.Token.SoftHSM); err == nil {
		t.Error("Open created a token")
	}
	c.Token.SoftHSM = own
	closeNow(t, open(t, c, options(t)))
}

// TestAnotherInstance tests that Open refuses the database of an instance that the configuration
// does not name.
func TestAnotherInstance(t *testing.T) {
	c := initialized(t)
	c.Instance.Region = "cn-beijing"
	_ = expectRefused(t, c, options(t), `belongs to instance "kst-test", region "cn-hangzhou", account "1", but the configuration has instance "kst-test", `+
		`region "cn-beijing", account "1"`)
}

// TestCA tests that only NewCA replaces a CA that clients may trust already.
func TestCA(t *testing.T) {
	c, o := newConfig(t), options(t)
	o.Provision = true
	a := open(t, c, o)
	if err := a.Server.Call(t.Context(), "CreateUser", map[string]string{"UserName": "alice"}, nil); err != nil {
		t.Fatal(err)
	}
	closeNow(t, a)
	before, err := os.ReadFile(c.TLS.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	renew := options(t)
	renew.NewCA = true
	_ = expectRefused(t, c, renew, "to create another CA, move its key")
	remove(t, c.TLS.CAKeyFile)
	_ = expectRefused(t, c, options(t), ca.LostAdvice)
	_ = expectRefused(t, c, o, ca.LostAdvice) // the user's programs trust the CA
	closeNow(t, open(t, c, renew))
	if after, err := os.ReadFile(c.TLS.CAFile); err != nil || bytes.Equal(before, after) {
		t.Errorf("Open with NewCA created no CA: %v", err)
	}
	closeNow(t, open(t, c, options(t)))
}

// TestServerTLS tests that the certificate is valid for the instance's names and for the
// listeners' addresses.
func TestServerTLS(t *testing.T) {
	c, o := newConfig(t), options(t)
	o.Provision = true
	c.TLS.Names = []string{"kms.example"}
	a := open(t, c, o)
	cfg, err := a.ServerTLS(&net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 443}, &net.TCPAddr{IP: net.IPv4zero})
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := cfg.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	leaf := certificate.Leaf
	for _, host := range []string{"localhost", "127.0.0.1", "::1", "192.0.2.7", "kms.example", "kst-test", "kst-test.cryptoservice.kms.aliyuncs.com"} {
		if err := leaf.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	if err := leaf.VerifyHostname("0.0.0.0"); err == nil {
		t.Error("the certificate is valid for the unspecified address")
	}
	closeNow(t, a)
	c.TLS.Certificate, c.TLS.Key = filepath.Join(c.Directory, "own.pem"), filepath.Join(c.Directory, "own-key.pem")
	chain, key := servercerttest.NewIssuer(t).Issue(t, nil)
	servercerttest.Replace(t, c.TLS.Certificate, chain)
	servercerttest.Replace(t, c.TLS.Key, key)
	own := open(t, c, options(t))
	if cfg, err = own.ServerTLS(); err != nil {
		t.Fatalf("ServerTLS with the operator's certificate: %v", err)
	}
	if certificate, err := cfg.GetCertificate(nil); err != nil || certificate.Leaf.Issuer.CommonName != "an operator's CA" {
		t.Errorf("GetCertificate: got %v, want the operator's certificate", err)
	}
	remove(t, c.TLS.Key)
	if _, err := own.ServerTLS(); err == nil || !strings.Contains(err.Error(), c.TLS.Certificate) {
		t.Errorf("ServerTLS without the key: got %v, want an error with %q", err, c.TLS.Certificate)
	}
}

// TestLeftovers tests that Open refuses an appliance that has lost its database, as long as any
// part of it exists.
func TestLeftovers(t *testing.T) {
	c, o := newConfig(t), options(t)
	o.Provision = true
	a := open(t, c, o)
	createKey(t, a)
	closeNow(t, a)
	if err := os.Truncate(c.Store.File, 0); err != nil {
		t.Fatal(err)
	}
	_ = expectRefused(t, c, options(t), fmt.Sprintf("the database %q is empty, but parts of its instance still exist: %q", c.Store.File, c.Audit.File))
	remove(t, c.Store.File)
	_ = expectRefused(t, c, options(t), fmt.Sprintf("is missing, but parts of its instance still exist: %q",
		c.Audit.File))
	_ = expectRefused(t, c, o, fmt.Sprintf("nothing was created: parts of an instance exist without its database %q: %q", c.Store.File, c.Audit.File))
	remove(t, c.Audit.File, c.AuditPublicKeyFile())
	_ = expectRefused(t, c, options(t), fmt.Sprintf("still exist: %q", c.TLS.CAKeyFile))
	remove(t, c.TLS.CAKeyFile)
	_ = expectRefused(t, c, options(t), fmt.Sprintf("2 signing keys of kmsgate in the token in %q", c.Token.SoftHSM))
	_ = expectRefused(t, c, o, "nothing was created: parts of an instance exist without its database")
	if _, err := os.Stat(c.Store.File); err == nil {
		t.Error("Open created a database")
	}
	if err := os.RemoveAll(c.Token.SoftHSM); err != nil {
		t.Fatal(err)
	}
	closeNow(t, open(t, c, o))
}

// TestAuditLoss tests that Open refuses a missing audit log, unless the loss is accepted.
func TestAuditLoss(t *testing.T) {
	c := initialized(t)
	a := open(t, c, options(t))
	createKey(t, a)
	closeNow(t, a)
	remove(t, c.Audit.File)
	_ = expectRefused(t, c, options(t), "start once with --accept-audit-loss")
	o := options(t)
	o.AcceptAuditLoss = true
	closeNow(t, open(t, c, o))
	closeNow(t, open(t, c, options(t)))
}

// TestOnClose tests that Close closes in the reverse order of opening, and returns every error.
func TestOnClose(t *testing.T) {
	c, o := newConfig(t), options(t)
	o.Provision = true
	a := open(t, c, o)
	var order []string
	for _, name := range []string{"one", "two"} {
		a.OnClose("number "+name, func() error {
			order = append(order, name)
			return errors.New("stuck")
		})
	}
	err := a.Close()
	if err == nil || !strings.Contains(err.Error(), "closing number one: stuck") ||
		!strings.Contains(err.Error(), "closing number two: stuck") {
		t.Errorf("Close: got %v, want both errors", err)
	}
	if !slices.Equal(order, []string{"two", "one"}) {
		t.Errorf("Close closed %q, want two before one", order)
	}
	closeNow(t, open(t, c, options(t)))
}

// TestInspectToken tests that InspectToken refuses a PIN file that others can read.
func TestInspectToken(t *testing.T) {
	c := initialized(t)
	files, ok, err := hardware.SoftHSMFiles(c)
	if err != nil || !ok {
		t.Fatalf("SoftHSMFiles: %v, %v", ok, err)
	}
	if _, err := os.Stat(files.Tokens); err != nil {
		t.Error(err)
	}
	pin := filepath.Join(c.Directory, "pin")
	if err := os.WriteFile(pin, []byte("none"), 0o640); err != nil {
		t.Fatal(err)
	}
	inspect := func(hsm.Inspector) error { t.Error("InspectToken used a PIN that others can read"); return nil }
	err = hardware.InspectToken(config.Token{Module: "/nonexistent.so", Label: "x", PINFile: pin}, false, nil, inspect)
	if err == nil || !strings.Contains(err.Error(), "reading the token's PIN: ") {
		t.Errorf("InspectToken with a PIN that others can read: got %v, want an error of reading the PIN", err)
	}
}
