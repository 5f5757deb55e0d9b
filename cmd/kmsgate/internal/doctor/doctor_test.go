package doctor_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/ca"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/doctor"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// initialized makes an appliance with a key in the token, and changes it before it is
// closed.
func initialized(t *testing.T, change func(a *appliance.Appliance)) *config.Config {
	t.Helper()
	t.Setenv("SOFTHSM2_CONF", "") // opening sets it; the test's end puts it back
	dir := t.TempDir()
	path := filepath.Join(dir, config.FileName)
	text := "instance: {id: kst-test, region: cn-hangzhou, account: '1'}\ntoken: {softhsm: softhsm}\nlisteners: [{address: '127.0.0.1:0'}]\n"
	if err := errors.Join(os.Chmod(dir, 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	a, err := appliance.Open(t.Context(), c, appliance.Options{Provision: true, Logger: config.Log{}.Quiet(t.Output())})
	if err != nil {
		t.Fatal(err)
	}
	call(t, a, "CreateKey", map[string]string{"KeySpec": "EC_P256"})
	if change != nil {
		change(a)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	return c
}

func call(t *testing.T, a *appliance.Appliance, action string, parameters map[string]string) {
	t.Helper()
	if err := a.Server.Call(t.Context(), action, parameters, nil); err != nil {
		t.Fatalf("%s: %v", action, err)
	}
}

func doctorOf(t *testing.T, c *config.Config) *doctor.Doctor {
	t.Helper()
	d := &doctor.Doctor{Config: c, Dial: func() (target.Caller, error) {
		return target.Target{Dir: c.Directory}.Dial(t.Context(), t.Output())
	}}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// only wants one problem with some text and some advice, and returns the diagnosis.
func only(t *testing.T, found *doctor.Diagnosis, severity doctor.Severity, what, do string) {
	t.Helper()
	for _, f := range found.Findings {
		if f.Severity == severity && strings.Contains(f.What, what) && strings.Contains(f.Do, do) {
			return
		}
	}
	t.Errorf("nothing is a %s with %q and %q among %+v", severity, what, do, found.Findings)
}

func TestHealthy(t *testing.T) {
	found := doctorOf(t, initialized(t, nil)).Examine(t.Context())
	if found.Problems() != 0 || len(found.Findings) != 0 || len(found.Strays()) != 0 || len(found.EmptyFiles()) != 0 {
		t.Errorf("it found %+v", found)
	}
	if len(found.Offers) != len(hsm.KeySpecs()) {
		t.Errorf("the token offers %+v", found.Offers)
	}
}

// unrecorded makes key pairs in the token that no record speaks of.
func unrecorded(t *testing.T, n int) func(a *appliance.Appliance) {
	t.Helper()
	return func(a *appliance.Appliance) {
		for range n {
			call(t, a, "CreateKey", map[string]string{"KeySpec": "EC_P256"})
		}
		err := a.Store.Update(func(tx *store.Tx) error {
			left := n
			for v := range a.Store.Now().Versions().All() {
				if left--; left < 0 {
					return nil
				}
				if err := errors.Join(tx.Keys().Delete(v.KeyId), tx.Orphans().Delete(v.KeyVersionId)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestStrays finds objects without a record, destroys them when it is told to, and is well
// then.
func TestStrays(t *testing.T) {
	d := doctorOf(t, initialized(t, unrecorded(t, 1)))
	found := d.Examine(t.Context())
	only(t, found, doctor.Problem, `a private key with label "kmsgate" and CKA_ID`, "kmsgate doctor --repair")
	if len(found.Strays()) != 2 { // the private and the public key
		t.Fatalf("the strays are %q", found.Strays())
	}
	mended, err := d.Repair(t.Context(), found)
	if err != nil || len(mended) != 2 || !strings.HasPrefix(mended[0], "Destroyed a ") {
		t.Errorf("Repair: %q, %v", mended, err)
	}
	if again := d.Examine(t.Context()); again.Problems() != 0 || len(again.Strays()) != 0 {
		t.Errorf("after it: %+v", again)
	}
	if mended, err := d.Repair(t.Context(), found); err != nil || len(mended) != 2 {
		t.Errorf("Repair of what is gone: %q, %v", mended, err)
	}
}

// TestOldDatabase: where the token has more keys without a record than with one, nothing
// can be destroyed.
func TestOldDatabase(t *testing.T) {
	found := doctorOf(t, initialized(t, unrecorded(t, 4))).Examine(t.Context())
	only(t, found, doctor.Problem, "as if the database were an older one", "kmsgate restore")
	only(t, found, doctor.Problem, "that no record speaks of", "nothing, before the database is certain")
	if len(found.Strays()) != 0 {
		t.Errorf("it would destroy %q", found.Strays())
	}
}

// TestMissingKey: a record without its key pair is found, and its version is not tried.
func TestMissingKey(t *testing.T) {
	found := doctorOf(t, initialized(t, func(a *appliance.Appliance) {
		id := uuid.New()
		err := a.Store.Update(func(tx *store.Tx) error {
			for v := range a.Store.Now().Versions().All() {
				v.KeyVersionId, v.Key.ID = id.String(), id[:]
				return tx.Versions().Put(v)
			}
			return errors.New("there is no version")
		})
		if err != nil {
			t.Fatal(err)
		}
	})).Examine(t.Context())
	only(t, found, doctor.Problem, "is not in the token", "kmsgate key create-version")
	if found.Problems() != 1 {
		t.Errorf("it found %+v", found.Findings)
	}
}

// TestDangling finds policies and access points that name what is gone.
func TestDangling(t *testing.T) {
	found := doctorOf(t, initialized(t, func(a *appliance.Appliance) {
		call(t, a, "CreateNetworkRule", map[string]string{"Name": "office", "Type": "Private", "SourcePrivateIp": `["192.0.2.0/24"]`})
		policy := map[string]string{"Permissions": `["RbacPermission/Template/CryptoServiceKeyUser"]`, "Resources": `["key/*"]`}
		policy["Name"], policy["AccessControlRules"] = "strict", `{"NetworkRules":["office"]}`
		call(t, a, "CreatePolicy", policy)
		policy["Name"], policy["AccessControlRules"] = "open", `{"NetworkRules":[]}`
		call(t, a, "CreatePolicy", policy)
		call(t, a, "CreateApplicationAccessPoint", map[string]string{"Name": "billing", "Policies": `["strict","open"]`})
		call(t, a, "DeleteNetworkRule", map[string]string{"Name": "office"})
		call(t, a, "DeletePolicy", map[string]string{"Name": "open"})
	})).Examine(t.Context())
	only(t, found, doctor.Note, "The permission policy strict names network rules that are gone (office), and lets nobody in.", "kmsgate aap policy update strict")
	only(t, found, doctor.Note, "The access point billing names permission policies that are gone (open), and its client keys may do less.", "kmsgate aap update billing")
	if len(found.Findings) != 2 {
		t.Errorf("it found %+v", found.Findings)
	}
}

// TestClientKeys finds client keys that expire soon.
func TestClientKeys(t *testing.T) {
	found := doctorOf(t, initialized(t, func(a *appliance.Appliance) {
		call(t, a, "CreatePolicy", map[string]string{"Name": "p", "Permissions": `["RbacPermission/Template/CryptoServiceKeyUser"]`, "Resources": `["key/*"]`})
		call(t, a, "CreateApplicationAccessPoint", map[string]string{"Name": "billing", "Policies": `["p"]`})
		now := time.Now().UTC()
		call(t, a, "CreateClientKey", map[string]string{"AapName": "billing", "Password": "correct-horse-1",
			"NotBefore": now.Format(time.RFC3339), "NotAfter": now.AddDate(0, 0, 20).Format(time.RFC3339)})
		call(t, a, "CreateClientKey", map[string]string{"AapName": "billing", "Password": "correct-horse-1"})
	})).Examine(t.Context())
	only(t, found, doctor.Note, "of access point billing is good until", "kmsgate clientkey create")
	if len(found.Findings) != 1 {
		t.Errorf("it found %+v", found.Findings)
	}
}

// TestFiles has one thing wrong with the files at a time.
func TestFiles(t *testing.T) {
	c := initialized(t, nil)
	key, err := os.ReadFile(c.TLS.CAKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other.pem")
	another, err := ca.Make(other, other+".key")
	if err != nil {
		t.Fatal(err)
	}
	write := func(path string, content []byte) func() error {
		return func() error { return os.WriteFile(path, content, 0o600) }
	}
	for name, test := range map[string]struct {
		spoil, restore func() error
		severity       doctor.Severity
		what, do       string
	}{
		"the database is everybody's": {
			func() error { return os.Chmod(c.Store.File, 0o604) }, func() error { return os.Chmod(c.Store.File, 0o600) },
			doctor.Problem, "everyone on this machine can use it", "chmod o= " + c.Store.File},
		"the directory is everybody's": {
			func() error { return os.Chmod(c.Directory, 0o702) }, func() error { return os.Chmod(c.Directory, 0o700) },
			doctor.Problem, "is writable by everyone", "change the configuration, or what it names"},
		"no CA": {
			func() error { return os.Remove(c.TLS.CAKeyFile) }, write(c.TLS.CAKeyFile, key),
			doctor.Problem, "The instance cannot be opened: the CA's key " + c.TLS.CAKeyFile + " is gone", "mend that"},
		"half a CA": {
			write(c.TLS.CAKeyFile, key[:100]), write(c.TLS.CAKeyFile, key),
			doctor.Problem, "reading the CA in " + c.TLS.CAKeyFile, ""},
		"no certificate": {
			func() error { return os.Remove(c.TLS.CAFile) }, func() error { return nil },
			doctor.Note, "The CA's certificate " + c.TLS.CAFile + ", for clients, was not there.", "writes it anew"},
		"another's certificate": {
			write(c.TLS.CAFile, []byte(another.Certificate())), func() error { return os.Remove(c.TLS.CAFile) },
			doctor.Problem, c.TLS.CAFile + " is not the certificate of the CA", ""},
		"no audit log": {
			func() error { return os.Rename(c.Audit.File, other+".log") }, func() error { return os.Rename(other+".log", c.Audit.File) },
			doctor.Problem, "The instance cannot be opened", "mend that"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := test.spoil(); err != nil {
				t.Fatal(err)
			}
			only(t, doctorOf(t, c).Examine(t.Context()), test.severity, test.what, test.do)
			if err := test.restore(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestEmptyFile: an empty file of SoftHSM's is removed when it is old enough not to be one
// that is being written.
func TestEmptyFile(t *testing.T) {
	c := initialized(t, nil)
	files, _, err := appliance.SoftHSMFiles(c)
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := filepath.Glob(filepath.Join(files.Tokens, "*", "token.object"))
	if err != nil || len(tokens) != 1 {
		t.Fatalf("the tokens are %q, %v", tokens, err)
	}
	empty := filepath.Join(filepath.Dir(tokens[0]), uuid.NewString()+".object")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := doctorOf(t, c)
	young := d.Examine(t.Context())
	only(t, young, doctor.Note, empty, "ask again in a minute")
	if len(young.EmptyFiles()) != 0 {
		t.Errorf("it would remove %q", young.EmptyFiles())
	}
	long := time.Now().Add(-time.Hour)
	if err := os.Chtimes(empty, long, long); err != nil {
		t.Fatal(err)
	}
	old := d.Examine(t.Context())
	only(t, old, doctor.Note, empty, "kmsgate doctor --repair removes it")
	mended, err := d.Repair(t.Context(), old)
	if err != nil || len(mended) != 1 || mended[0] != "Removed "+empty+"." {
		t.Errorf("Repair: %q, %v", mended, err)
	}
	if _, err := os.Stat(empty); err == nil {
		t.Error("the file is there still")
	}
}

// TestNothingToLookAt: what is not known is told, and nothing else is looked at.
func TestNothingToLookAt(t *testing.T) {
	d := doctor.Doctor{ConfigError: errors.New("line 3: token: is missing")}
	found := d.Examine(t.Context())
	only(t, found, doctor.Problem, "The configuration cannot be read: line 3", "nothing else was looked at")
	refused := errors.New("no gateway answers")
	d = doctor.Doctor{Dial: func() (target.Caller, error) { return nil, refused }}
	found = d.Examine(context.Background())
	only(t, found, doctor.Note, "The configuration and the files were not looked at.", "--config")
	only(t, found, doctor.Problem, "The instance cannot be opened: no gateway answers.", "")
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}
