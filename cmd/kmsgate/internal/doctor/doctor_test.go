package doctor_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/doctor"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/hardware"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/hardware/hardwaretest"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/ca"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/store"
)

// initialized creates an appliance with a key in the token, and calls change before it closes the
// appliance.
func initialized(t *testing.T, change func(a *appliance.Appliance)) *config.Config {
	t.Helper()
	_, a := hardwaretest.Open(t)
	call(t, a, "CreateKey", map[string]string{"KeySpec": "EC_P256"})
	if change != nil {
		change(a)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	return a.Config
}

func call(t *testing.T, a *appliance.Appliance, action string, parameters map[string]string) {
	t.Helper()
	if err := a.Server.Call(t.Context(), action, parameters, nil); err != nil {
		t.Fatalf("%s: %v", action, err)
	}
}

func doctorOf(t *testing.T, c *config.Config) *doctor.Doctor {
	t.Helper()
	d := &doctor.Doctor{
		Configuration: func() (*config.Config, error) { return c, nil },
		Dial: func(onlyRunning bool) (target.Caller, error) {
			if onlyRunning {
				return target.Target{Dir: c.Directory}.DialRunning()
			}
			return target.Target{Dir: c.Directory}.Dial(t.Context(), t.Output())
		},
		Timeout: 2 * time.Minute, // a busy machine must not make a difference
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// expectFinding expects a finding with this severity, whose fields contain what and do.
func expectFinding(t *testing.T, found *doctor.Diagnosis, severity doctor.Severity, sentence, do string) {
	t.Helper()
	for _, f := range found.Findings {
		if f.Severity == severity && strings.Contains(f.What, sentence) && strings.Contains(f.Do, do) {
			return
		}
	}
	t.Errorf("got %+v, want a %s with %q and %q", found.Findings, severity, sentence, do)
}

func TestHealthy(t *testing.T) {
	found := doctorOf(t, initialized(t, nil)).Examine(t.Context())
	if found.Problems() != 0 || len(found.Findings) != 0 || len(found.Strays()) != 0 || len(found.EmptyFiles()) != 0 {
		t.Errorf("Examine: got %+v, want no findings", found)
	}
	if len(found.Offers) != len(hsm.KeySpecs()) {
		t.Errorf("Examine: got the offers %+v, want one per KeySpec", found.Offers)
	}
	if found.UID != os.Getuid() || found.Incomplete {
		t.Errorf("Examine: got uid %d, incomplete %v, want this process's and false", found.UID, found.Incomplete)
	}
}

// unrecorded returns a change that creates n key pairs in the token without a record.
func unrecorded(t *testing.T, n int) func(a *appliance.Appliance) {
	t.Helper()
	return func(a *appliance.Appliance) {
		for range n {
			call(t, a, "CreateKey", map[string]string{"KeySpec": "EC_P256"})
		}
		err := a.Store.Update(func(tx *store.Tx) error {
			remaining := n
			for v := range a.Store.Now().Versions().All() {
				if remaining--; remaining < 0 {
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

// forgetLog starts another audit log, in which no key was created.
func forgetLog(t *testing.T, c *config.Config) {
	t.Helper()
	if err := os.Remove(c.Audit.File); err != nil {
		t.Fatal(err)
	}
	a, err := hardware.Open(t.Context(), c, appliance.Options{AcceptAuditLoss: true, Logger: config.Log{}.Quiet(t.Output())})
	if err == nil {
		err = a.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestStrays tests that Examine finds objects without a record, and that Repair destroys them.
func TestStrays(t *testing.T) {
	c := initialized(t, unrecorded(t, 1))
	d := doctorOf(t, c)
	if repaired, err := d.Repair(t.Context(), d.Examine(t.Context())); err == nil || repaired != nil {
		t.Errorf("Repair of a pair that the audit log says was not deleted: got %q, %v, want an error", repaired, err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	forgetLog(t, c)
	d = doctorOf(t, c)
	found := d.Examine(t.Context())
	expectFinding(t, found, doctor.Problem, `a private key with label "kmsgate" and CKA_ID`, "kmsgate doctor --repair")
	if len(found.Strays()) != 2 {
		t.Fatalf("Strays: got %q, want a private and a public key", found.Strays())
	}
	repaired, err := d.Repair(t.Context(), found)
	if err != nil || len(repaired) != 2 || !strings.HasPrefix(repaired[0], "Destroyed a ") {
		t.Errorf("Repair: got %q, %v, want two destroyed objects", repaired, err)
	}
	if again := d.Examine(t.Context()); again.Problems() != 0 || len(again.Strays()) != 0 {
		t.Errorf("Examine after Repair: got %+v, want no problems", again)
	}
	if repaired, err := d.Repair(t.Context(), found); err != nil || len(repaired) != 2 {
		t.Errorf("Repair of destroyed objects: got %q, %v, want no error", repaired, err)
	}
}

// TestOldDatabase tests that Repair would destroy nothing if the token has more keys without a
// record than with one, and that Examine reports this as one problem.
func TestOldDatabase(t *testing.T) {
	found := doctorOf(t, initialized(t, unrecorded(t, 4))).Examine(t.Context())
	expectFinding(t, found, doctor.Problem, "the database seems to be outdated", "kmsgate restore")
	if len(found.Strays()) != 0 || found.Problems() != 1 {
		t.Errorf("Examine: got %+v and the strays %q, want one problem and no strays", found.Findings, found.Strays())
	}
	symptoms := strings.Join(found.Findings[0].Symptoms, "\n")
	if n := strings.Count(symptoms, "An object in the token has no record: a private key"); n != 4 {
		t.Errorf("Examine: got the symptoms %q, want four private keys", symptoms)
	}
}

// TestMissingKey tests that Examine finds a record without its key pair, and does not test that
// version.
func TestMissingKey(t *testing.T) {
	found := doctorOf(t, initialized(t, func(a *appliance.Appliance) {
		id := uuid.New()
		err := a.Store.Update(func(tx *store.Tx) error {
			for v := range a.Store.Now().Versions().All() {
				v.KeyVersionId, v.Key.ID = id.String(), id[:]
				return tx.Versions().Put(v)
			}
			return errors.New("no version")
		})
		if err != nil {
			t.Fatal(err)
		}
	})).Examine(t.Context())
	expectFinding(t, found, doctor.Problem, "is not in the token", "kmsgate key create-version")
	if found.Problems() != 1 {
		t.Errorf("Examine: got %+v, want one problem", found.Findings)
	}
}

// TestDangling tests that Examine finds permission policies and access points that name deleted
// resources.
func TestDangling(t *testing.T) {
	found := doctorOf(t, initialized(t, func(a *appliance.Appliance) {
		call(t, a, "CreateNetworkRule", map[string]string{"Name": "office", "Type": "Private",
			"SourcePrivateIp": `["192.0.2.0/24"]`})
		policy := map[string]string{"Permissions": `["RbacPermission/Template/CryptoServiceKeyUser"]`,
			"Resources": `["key/*"]`}
		policy["Name"], policy["AccessControlRules"] = "strict", `{"NetworkRules":["office"]}`
		call(t, a, "CreatePolicy", policy)
		policy["Name"], policy["AccessControlRules"] = "open", `{"NetworkRules":[]}`
		call(t, a, "CreatePolicy", policy)
		call(t, a, "CreateApplicationAccessPoint", map[string]string{"Name": "billing",
			"Policies": `["strict","open"]`})
		call(t, a, "DeleteNetworkRule", map[string]string{"Name": "office"})
		call(t, a, "DeletePolicy", map[string]string{"Name": "open"})
	})).Examine(t.Context())
	expectFinding(t, found, doctor.Note, "The permission policy strict names deleted network rules (office), so it admits no address.",
		"kmsgate aap permission update strict")
	expectFinding(t, found, doctor.Note, "The access point billing names deleted permission policies (open), so its client keys may do less.",
		"kmsgate aap update billing")
	if len(found.Findings) != 2 {
		t.Errorf("Examine: got %+v, want two findings", found.Findings)
	}
}

// TestClientKeys tests that Examine finds client keys that expire soon.
func TestClientKeys(t *testing.T) {
	found := doctorOf(t, initialized(t, func(a *appliance.Appliance) {
		call(t, a, "CreatePolicy", map[string]string{"Name": "p",
			"Permissions": `["RbacPermission/Template/CryptoServiceKeyUser"]`, "Resources": `["key/*"]`})
		call(t, a, "CreateApplicationAccessPoint", map[string]string{"Name": "billing", "Policies": `["p"]`})
		now := time.Now().UTC()
		call(t, a, "CreateClientKey", map[string]string{"AapName": "billing", "Password": "correct-horse-1",
			"NotBefore": now.Format(time.RFC3339), "NotAfter": now.AddDate(0, 0, 20).Format(time.RFC3339)})
		call(t, a, "CreateClientKey", map[string]string{"AapName": "billing", "Password": "correct-horse-1"})
	})).Examine(t.Context())
	expectFinding(t, found, doctor.Note, "of access point billing expires at", "kmsgate clientkey create")
	if len(found.Findings) != 1 {
		t.Errorf("Examine: got %+v, want one finding", found.Findings)
	}
}

// TestFiles tests one problem of the files at a time.
func TestFiles(t *testing.T) {
	c := initialized(t, nil)
	key, err := os.ReadFile(c.TLS.CAKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other.pem")
	another, err := ca.Create(other, other+".key")
	if err != nil {
		t.Fatal(err)
	}
	write := func(path string, content []byte) func() error {
		return func() error { return os.WriteFile(path, content, 0o600) }
	}
	for name, test := range map[string]struct {
		spoil, restore func() error
		severity       doctor.Severity
		sentence, do   string
	}{
		"the database is public": {
			func() error { return os.Chmod(c.Store.File, 0o604) }, func() error {
				return os.Chmod(c.Store.File,
					0o600)
			},
			doctor.Problem, "every user of this machine can use it", "chmod o= " + c.Store.File},
		"the directory is public": {
			func() error { return os.Chmod(c.Directory, 0o702) }, func() error { return os.Chmod(c.Directory, 0o700) },
			doctor.Problem, "is writable by all users", "correct the configuration, or the file that it names"},
		"no CA": {
			func() error { return os.Remove(c.TLS.CAKeyFile) }, write(c.TLS.CAKeyFile, key),
			doctor.Problem, fmt.Sprintf("The instance cannot be opened: the CA's key %q is missing",
				c.TLS.CAKeyFile), "correct this"},
		"half a CA": {
			write(c.TLS.CAKeyFile, key[:100]), write(c.TLS.CAKeyFile, key),
			doctor.Problem, fmt.Sprintf("reading the CA in %q", c.TLS.CAKeyFile), ""},
		"no certificate": {
			func() error { return os.Remove(c.TLS.CAFile) }, func() error { return nil },
			doctor.Note, fmt.Sprintf("The CA's certificate %q, which is for clients, was missing.",
				c.TLS.CAFile), "writes the file again"},
		"another CA's certificate": {
			write(c.TLS.CAFile, []byte(another.Certificate())), func() error { return os.Remove(c.TLS.CAFile) },
			doctor.Problem, fmt.Sprintf("%q is not the certificate of the CA", c.TLS.CAFile), ""},
		"no audit log": {
			func() error { return os.Rename(c.Audit.File, other+".log") }, func() error { return os.Rename(other+".log", c.Audit.File) },
			doctor.Problem, "The instance cannot be opened", "correct this"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := test.spoil(); err != nil {
				t.Fatal(err)
			}
			expectFinding(t, doctorOf(t, c).Examine(t.Context()), test.severity, test.sentence, test.do)
			if err := test.restore(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestEmptyFile tests that Repair removes an empty file of SoftHSM, unless the file is so young
// that SoftHSM may be writing it.
func TestEmptyFile(t *testing.T) {
	c := initialized(t, nil)
	files, _, err := hardware.SoftHSMFiles(c)
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := filepath.Glob(filepath.Join(files.Tokens, "*", "token.object"))
	if err != nil || len(tokens) != 1 {
		t.Fatalf("got the tokens %q, %v, want one", tokens, err)
	}
	empty := filepath.Join(filepath.Dir(tokens[0]), uuid.NewString()+".object")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := doctorOf(t, c)
	young := d.Examine(t.Context())
	expectFinding(t, young, doctor.Note, empty, "run kmsgate doctor again in a minute")
	if len(young.EmptyFiles()) != 0 {
		t.Errorf("EmptyFiles: got %q, want none", young.EmptyFiles())
	}
	hourAgo := time.Now().Add(-time.Hour)
	if err := os.Chtimes(empty, hourAgo, hourAgo); err != nil {
		t.Fatal(err)
	}
	old := d.Examine(t.Context())
	expectFinding(t, old, doctor.Note, empty, "remove it with kmsgate doctor --repair")
	repaired, err := d.Repair(t.Context(), old)
	if err != nil || len(repaired) != 1 || repaired[0] != fmt.Sprintf("Removed %q.", empty) {
		t.Errorf("Repair: got %q, %v, want one removed file", repaired, err)
	}
	if _, err := os.Stat(empty); err == nil {
		t.Error("Repair did not remove the file")
	}
}

// TestOneCause tests that Examine reports one problem if all that is wrong has one cause.
func TestOneCause(t *testing.T) {
	c := initialized(t, nil)
	for _, test := range []struct {
		name           string
		spoil, restore func() error
		sentence, do   string
		symptoms       []string // parts of them
	}{
		{"files that are public",
			func() error { return errors.Join(os.Chmod(c.Store.File, 0o604), os.Chmod(c.Audit.File, 0o606)) },
			func() error { return errors.Join(os.Chmod(c.Store.File, 0o600), os.Chmod(c.Audit.File, 0o600)) },
			strconv.Quote(c.Store.File) + " has mode", "chmod o= " + c.Store.File + " " + c.Audit.File,
			[]string{strconv.Quote(c.Audit.File) + " has mode"}},
		{"no directory",
			func() error { return os.Rename(c.Directory, c.Directory+".away") },
			func() error { return os.Rename(c.Directory+".away", c.Directory) },
			"directory " + strconv.Quote(c.Directory) + " does not exist, so nothing else was examined", "mount its file system", nil},
		{"a token that is lost", // last, because nothing restores it
			func() error { return loseToken(c) }, func() error { return nil },
			"token.object\" is missing, so SoftHSM does not find the token", "from a backup",
			[]string{"The instance cannot be opened: "}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := test.spoil(); err != nil {
				t.Fatal(err)
			}
			found := doctorOf(t, c).Examine(t.Context())
			expectFinding(t, found, doctor.Problem, test.sentence, test.do)
			if found.Problems() != 1 || len(found.Findings[0].Symptoms) != len(test.symptoms) {
				t.Errorf("Examine: got %+v, want one problem with %d symptoms", found.Findings, len(test.symptoms))
			}
			for _, symptom := range test.symptoms {
				if !strings.Contains(strings.Join(found.Findings[0].Symptoms, "\n"), symptom) {
					t.Errorf("Examine: got %+v, want the symptom %q", found.Findings, symptom)
				}
			}
			if err := test.restore(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// loseToken removes the token.object of an instance and its copy.
func loseToken(c *config.Config) error {
	files, _, err := hardware.SoftHSMFiles(c)
	if err != nil {
		return err
	}
	lost, err := filepath.Glob(filepath.Join(files.Tokens, "*", "token.object"))
	copies, globErr := filepath.Glob(filepath.Join(files.Guarded, "*"))
	err = errors.Join(err, globErr)
	for _, path := range append(lost, copies...) {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// TestNothingToExamine tests that Examine reports an unreadable configuration and an unreachable
// gateway.
func TestNothingToExamine(t *testing.T) {
	configuration := func(err error) func() (*config.Config, error) {
		return func() (*config.Config, error) { return nil, err }
	}
	d := doctor.Doctor{Configuration: configuration(errors.New("line 3: token: is missing"))}
	found := d.Examine(t.Context())
	expectFinding(t, found, doctor.Problem, "The configuration cannot be read: line 3", "nothing else was examined")
	errDial := errors.New("no gateway answers")
	d = doctor.Doctor{Configuration: configuration(nil), Dial: func(bool) (target.Caller, error) { return nil, errDial }}
	found = d.Examine(context.Background())
	expectFinding(t, found, doctor.Note, "The configuration and the files were not examined.", "--config")
	expectFinding(t, found, doctor.Problem, "The instance cannot be opened: no gateway answers.", "")
	if !errors.Is(found.OpenError(), errDial) {
		t.Errorf("OpenError: got %v, want the error of Dial", found.OpenError())
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}
