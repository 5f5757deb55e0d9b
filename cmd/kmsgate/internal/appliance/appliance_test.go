package appliance_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/ca"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/keypair"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/token"
)

// configured returns the configuration of an appliance with a SoftHSM token, which is not
// there yet.
func configured(t *testing.T) *config.Config {
	t.Helper()
	t.Setenv("SOFTHSM2_CONF", "") // opening sets it; the test's end puts it back
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

// open opens an appliance. It is closed at the test's end, or before.
func open(t *testing.T, c *config.Config, o appliance.Options) *appliance.Appliance {
	t.Helper()
	a, err := appliance.Open(t.Context(), c, o)
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

// initialized makes an appliance and closes it again.
func initialized(t *testing.T) *config.Config {
	t.Helper()
	c, o := configured(t), options(t)
	o.Provision = true
	closeNow(t, open(t, c, o))
	return c
}

// refused wants an error with some text, and nothing left open by it.
func refused(t *testing.T, c *config.Config, o appliance.Options, want string) error {
	t.Helper()
	a, err := appliance.Open(t.Context(), c, o)
	if err == nil {
		closeNow(t, a)
	}
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Open: %v, want an error with %q", err, want)
	}
	if unlock, lockErr := appliance.LockDirectory(c.Directory); lockErr != nil {
		t.Errorf("after an error of Open: %v", lockErr)
	} else if err := unlock(); err != nil {
		t.Error(err)
	}
	return err
}

func createKey(t *testing.T, a *appliance.Appliance) (keyId string) {
	t.Helper()
	var made struct{ KeyMetadata struct{ KeyId string } }
	if err := a.Server.Call(t.Context(), "CreateKey", map[string]string{"KeySpec": "EC_P256"}, &made); err != nil {
		t.Fatal(err)
	}
	return made.KeyMetadata.KeyId
}

func remove(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOpenTwice: one appliance is one process's, and the next one finds what the last
// one had.
func TestOpenTwice(t *testing.T) {
	c, o := configured(t), options(t)
	o.Provision = true
	first := open(t, c, o)
	keyId, public := createKey(t, first), first.AuditPublicKey()
	if _, err := appliance.Open(t.Context(), c, o); !errors.Is(err, appliance.ErrInUse) || !strings.Contains(err.Error(), c.Directory) {
		t.Errorf("Open of one that is open: %v", err)
	}
	closeNow(t, first)
	closeNow(t, first) // once is enough, twice does nothing

	second := open(t, c, options(t))
	if !bytes.Equal(second.AuditPublicKey(), public) {
		t.Error("it has another audit key")
	}
	if err := second.Server.Call(t.Context(), "DescribeKey", map[string]string{"KeyId": keyId}, nil); err != nil {
		t.Error(err)
	}
	proof, err := second.VerifyAll(t.Context())
	if err != nil || proof.Keys != 1 || proof.Versions != 1 {
		t.Errorf("Prove: %+v, %v", proof, err)
	}
}

// TestAuditKey: the audit key's signatures are those that the file for auditors checks.
func TestAuditKey(t *testing.T) {
	c, o := configured(t), options(t)
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
		t.Errorf("SignWithAuditKey: %v", err)
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
	_ = refused(t, c, options(t), "is not the public half of the audit key")
}

// TestNotInitialized: without Provision nothing is made, and an init that was cut off is
// told from none only by what it left.
func TestNotInitialized(t *testing.T) {
	c := configured(t)
	if err := refused(t, c, options(t), "kmsgate init"); !errors.Is(err, appliance.ErrNotInitialized) {
		t.Errorf("Open: %v", err)
	}
	entries, err := os.ReadDir(c.Directory)
	if err != nil || len(entries) != 1 || entries[0].Name() != "lock" {
		t.Errorf("Open made %v, %v", entries, err)
	}
}

// TestLocked: the hook comes before anything is made, and its error ends it all.
func TestLocked(t *testing.T) {
	c, o := configured(t), options(t)
	no := errors.New("no")
	o.Provision, o.Locked = true, func() error {
		if _, err := appliance.LockDirectory(c.Directory); !errors.Is(err, appliance.ErrInUse) {
			t.Errorf("the directory is not locked: %v", err)
		}
		if _, err := os.Stat(c.Store.File); err == nil {
			t.Error("there is a database already")
		}
		return no
	}
	if err := refused(t, c, o, "no"); !errors.Is(err, no) {
		t.Errorf("Open: %v", err)
	}
}

// TestForeignToken: a token of another appliance is refused, and none is made in the place
// of one that is missing.
func TestForeignToken(t *testing.T) {
	c, other := initialized(t), initialized(t)
	own := c.Token.SoftHSM
	c.Token.SoftHSM = other.Token.SoftHSM
	err := refused(t, c, options(t), "restore token and database from a backup")
	if !errors.Is(err, keypair.ErrForeignToken) && !errors.Is(err, token.ErrNotOurs) {
		t.Errorf("another's token: %v", err)
	}
	c.Token.SoftHSM = filepath.Join(c.Directory, "none")
	o := options(t)
	o.Provision = true
	_ = refused(t, c, o, "is not there")
	if _, err := os.Stat(c.Token.SoftHSM); err == nil {
		t.Error("a token was made")
	}
	c.Token.SoftHSM = own
	closeNow(t, open(t, c, options(t)))
}

// TestAnotherInstance: a database of an instance that the configuration does not name is
// refused.
func TestAnotherInstance(t *testing.T) {
	c := initialized(t)
	c.Instance.Region = "cn-beijing"
	_ = refused(t, c, options(t), "is of instance kst-test in region cn-hangzhou of account 1, and the configuration says kst-test, cn-beijing, 1")
}

// TestCA: a CA that clients may trust already is never replaced, unless that is asked for.
func TestCA(t *testing.T) {
	c, o := configured(t), options(t)
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
	_ = refused(t, c, renew, "to have another one, move it away")
	remove(t, c.TLS.CAKeyFile)
	_ = refused(t, c, options(t), ca.LostAdvice)
	_ = refused(t, c, o, ca.LostAdvice) // there is a user: its programs trust the CA
	closeNow(t, open(t, c, renew))
	if after, err := os.ReadFile(c.TLS.CAFile); err != nil || bytes.Equal(before, after) {
		t.Errorf("there is no new CA: %v", err)
	}
	closeNow(t, open(t, c, options(t)))
}

// TestServerTLS: clients that trust the CA accept the certificate for the instance's name
// and for the addresses that are served.
func TestServerTLS(t *testing.T) {
	c, o := configured(t), options(t)
	o.Provision = true
	c.TLS.Names = []string{"kms.example"}
	a := open(t, c, o)
	cfg, err := a.ServerTLS(&net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 443}, &net.TCPAddr{IP: net.IPv4zero})
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(cfg.Certificates[0].Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"localhost", "127.0.0.1", "::1", "192.0.2.7", "kms.example", "kst-test", "kst-test.cryptoservice.kms.aliyuncs.com"} {
		if err := leaf.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	if err := leaf.VerifyHostname("0.0.0.0"); err == nil {
		t.Error("the certificate is for the unspecified address")
	}
	c.TLS.Certificate, c.TLS.Key = c.TLS.CAFile, c.TLS.CAKeyFile // the operator's own
	closeNow(t, a)
	own := open(t, c, options(t))
	if cfg, err := own.ServerTLS(); err != nil || len(cfg.Certificates) != 1 {
		t.Errorf("with the operator's certificate: %v", err)
	}
	c.TLS.Key = filepath.Join(c.Directory, "none")
	if _, err := own.ServerTLS(); err == nil || !strings.Contains(err.Error(), c.TLS.Certificate) {
		t.Errorf("without its key: %v", err)
	}
}

// TestLeftovers: whatever is left of an appliance without its database, it is neither
// used nor built upon.
func TestLeftovers(t *testing.T) {
	c, o := configured(t), options(t)
	o.Provision = true
	a := open(t, c, o)
	createKey(t, a)
	closeNow(t, a)
	if err := os.Truncate(c.Store.File, 0); err != nil {
		t.Fatal(err)
	}
	_ = refused(t, c, options(t), "the database "+c.Store.File+" is empty, of whose instance there still is "+c.Audit.File)
	remove(t, c.Store.File)
	_ = refused(t, c, options(t), "is gone, of whose instance there still is "+c.Audit.File)
	_ = refused(t, c, o, "nothing was made: there is "+c.Audit.File)
	remove(t, c.Audit.File, c.AuditPublicKeyFile())
	_ = refused(t, c, options(t), "there still is "+c.TLS.CAKeyFile)
	remove(t, c.TLS.CAKeyFile)
	_ = refused(t, c, options(t), "signing keys with kmsgate's label in the token (2; it is the one in "+c.Token.SoftHSM)
	_ = refused(t, c, o, "nothing was made: there is signing keys")
	if _, err := os.Stat(c.Store.File); err == nil {
		t.Error("a database was made")
	}
	if err := os.RemoveAll(c.Token.SoftHSM); err != nil {
		t.Fatal(err)
	}
	closeNow(t, open(t, c, o))
}

// TestAuditLoss: a log that is gone is told of, and goes on only if that is accepted.
func TestAuditLoss(t *testing.T) {
	c := initialized(t)
	a := open(t, c, options(t))
	createKey(t, a)
	closeNow(t, a)
	remove(t, c.Audit.File)
	_ = refused(t, c, options(t), "start once with --accept-audit-loss")
	o := options(t)
	o.AcceptAuditLoss = true
	closeNow(t, open(t, c, o))
	closeNow(t, open(t, c, options(t)))
}

// TestOnClose: what is opened last is closed first, and every error is told.
func TestOnClose(t *testing.T) {
	c, o := configured(t), options(t)
	o.Provision = true
	a := open(t, c, o)
	var order []string
	for _, name := range []string{"one", "two"} {
		a.OnClose("number "+name, func() error {
			order = append(order, name)
			return errors.New("it is stuck")
		})
	}
	err := a.Close()
	if err == nil || !strings.Contains(err.Error(), "closing number one: it is stuck") || !strings.Contains(err.Error(), "closing number two: it is stuck") {
		t.Errorf("Close: %v", err)
	}
	if !slices.Equal(order, []string{"two", "one"}) {
		t.Errorf("it closed %q", order)
	}
	closeNow(t, open(t, c, options(t)))
}

// TestLookAtToken looks into a token without making anything of it an appliance's.
func TestLookAtToken(t *testing.T) {
	c := initialized(t)
	files, ok, err := appliance.SoftHSMFiles(c)
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
	look := func(hsm.Inspector) error { t.Error("it looks with a PIN that others know"); return nil }
	err = appliance.LookAtToken(config.Token{Module: "/nonexistent.so", Label: "x", PINFile: pin}, nil, look)
	if err == nil || !strings.Contains(err.Error(), "the token's PIN: ") {
		t.Errorf("a PIN that others can read: %v", err)
	}
}
