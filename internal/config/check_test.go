package config

import (
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kmsgate/kmsgate/internal/ca"
	"github.com/kmsgate/kmsgate/internal/ownership"
	"github.com/kmsgate/kmsgate/internal/servercert/servercerttest"
)

// onDisk returns a configuration that passes Check, in a new directory.
func onDisk(t *testing.T) *Config {
	t.Helper()
	dir := t.TempDir()
	chmod(t, dir, 0o700)
	write(t, filepath.Join(dir, "module.so"), "", 0o644)
	write(t, filepath.Join(dir, "pin"), "1234\n", 0o600)
	c, err := Parse([]byte(replaced("/lib/module.so", "module.so")+"admin: {socket: /tmp/s}\n"), dir)
	if err != nil {
		t.Fatal(err)
	}
	c.Admin.Socket = filepath.Join(dir, "s")
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	return c
}

// write writes a file with exactly this mode, regardless of the umask.
func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path, []byte(content), 0o600), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
}

// certify writes a certificate and its key to dir/cert and dir/key. change, if not nil, changes the
// certificate before it is signed.
func certify(t *testing.T, dir string, change func(template *x509.Certificate)) {
	t.Helper()
	certificate, key := servercerttest.NewIssuer(t).Issue(t, change)
	write(t, filepath.Join(dir, "cert"), string(certificate), 0o644)
	write(t, filepath.Join(dir, "key"), string(key), 0o600)
}

// A checkTest spoils a configuration that passes Check.
type checkTest struct {
	name  string
	spoil func(c *Config, dir string)
	want  []string // the starts of the mistakes; none: no mistake
}

func TestCheck(t *testing.T) {
	for _, test := range []checkTest{
		{"softhsm", func(c *Config, dir string) { c.Token = Token{SoftHSM: dir + "/new"} }, nil},
		{"no directory", func(c *Config, dir string) { c.Directory = dir + "/none" }, []string{"directory: stat"}},
		{"a file for a directory", func(c *Config, dir string) { c.Directory = dir + "/pin" },
			[]string{`directory: "%s/pin" is not a directory`}},
		{"open directory", func(c *Config, dir string) { chmod(t, dir, 0o777) }, []string{
			`directory: the directory "%s" is writable by all users, who could replace its files (run chmod o-w %s)`,
			`admin.socket: the directory "%s" is accessible to users other than its owner (run chmod 700 %s`,
			`token.module: "%s" is writable by all users (run chmod o-w %s)`,
		}},
		{"writable module", func(c *Config, dir string) { chmod(t, dir+"/module.so", 0o666) },
			[]string{`token.module: "%s/module.so" is writable by all users (run chmod o-w %s/module.so)`}},
		{"no directory of the store", func(c *Config, dir string) { c.Store.File = dir + "/none/db" },
			[]string{"store.file: stat"}},
		{"no module", func(c *Config, dir string) { c.Token.Module = dir + "/none" }, []string{"token.module: stat"}},
		{"a directory for a module", func(c *Config, dir string) { c.Token.Module = dir },
			[]string{`token.module: "%s" is not a regular file`}},
		{"SoftHSM's configuration", func(c *Config, dir string) { c.Token.SoftHSMConf = dir + "/module.so" }, nil},
		{"no configuration of SoftHSM", func(c *Config, dir string) { c.Token.SoftHSMConf = dir + "/none" },
			[]string{"token.softhsm_conf: stat"}},
		{"no PIN", func(c *Config, dir string) { c.Token.PINFile = dir + "/none" }, []string{"token.pin_file: open"}},
		{"public PIN", func(c *Config, dir string) { chmod(t, dir+"/pin", 0o640) }, []string{
			`token.pin_file: "%s/pin" is accessible to users other than its owner (run chmod 600 %s/pin)`,
		}},
		{"no PIN variable", func(c *Config, dir string) { c.Token.PINFile, c.Token.PINEnv = "", "KMSGATE_NONE" },
			[]string{`token.pin_env: the environment variable "KMSGATE_NONE" is not set`}},
		{"all", func(c *Config, dir string) {
			c.Directory, c.Token.Module, c.Token.PINFile = dir+"/none", dir+"/none", dir+"/none"
		}, []string{"directory: ", "token.module: ", "token.pin_file: "}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := onDisk(t)
			dir := c.Directory
			test.spoil(c, dir)
			expectMistakes(t, c.Check(), dir, test.want)
		})
	}
}

// TestCheckCertificate tests that Check says why clients would refuse an operator's certificate.
func TestCheckCertificate(t *testing.T) {
	now := time.Now()
	for _, test := range []checkTest{
		{"a good one", func(_ *Config, dir string) { certify(t, dir, nil) }, nil},
		{"no certificate, no key", func(*Config, string) {}, []string{"tls.certificate: open", "tls.key: open"}},
		{"another's key", func(_ *Config, dir string) {
			certify(t, dir, nil)
			first, err := os.ReadFile(dir + "/key")
			if err != nil {
				t.Fatal(err)
			}
			certify(t, dir, nil)
			write(t, dir+"/key", string(first), 0o600)
		}, []string{"tls.key: does not match tls.certificate: they must be"}},
		{"expired", func(_ *Config, dir string) {
			certify(t, dir, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) })
		}, []string{"tls.certificate: the certificate expired at"}},
		{"not yet valid", func(_ *Config, dir string) {
			certify(t, dir, func(c *x509.Certificate) { c.NotBefore = now.Add(time.Hour) })
		}, []string{"tls.certificate: the certificate is not valid before"}},
		{"common name only", func(_ *Config, dir string) {
			certify(t, dir, func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = nil, nil })
		}, []string{"tls.certificate: the certificate has no subject alternative name (SAN), and clients ignore its common name (CN)"}},
		{"for clients", func(_ *Config, dir string) {
			certify(t, dir, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
		}, []string{"tls.certificate: the certificate is not for servers: its extended key usage has no serverAuth, only clientAuth"}},
		{"encrypted key", func(_ *Config, dir string) {
			certify(t, dir, nil)
			write(t, dir+"/key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n", 0o600)
		}, []string{"tls.key: the private key is encrypted"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := onDisk(t)
			c.TLS = TLS{Certificate: c.Directory + "/cert", Key: c.Directory + "/key"}
			test.spoil(c, c.Directory)
			expectMistakes(t, c.Check(), c.Directory, test.want)
		})
	}
}

// TestWarnings tests that Warnings reports an operator's certificate 30 days before it expires, and
// that of the CA a year before.
func TestWarnings(t *testing.T) {
	own := onDisk(t)
	own.TLS = TLS{Certificate: own.Directory + "/cert", Key: own.Directory + "/key"}
	var end time.Time
	certify(t, own.Directory, func(c *x509.Certificate) { end = c.NotAfter })
	issued := onDisk(t)
	authority, err := ca.Create(issued.TLS.CAFile, issued.TLS.CAKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	const day = 24 * time.Hour
	for _, test := range []struct {
		name string
		c    *Config
		now  time.Time
		want string // the warning's start; empty: no warning
	}{
		{"own, in time", own, end.Add(-31 * day), ""},
		{"own, soon", own, end.Add(-29 * day), "the server's certificate expires at " + end.UTC().Format(time.RFC3339)},
		{"the CA's, in time", issued, authority.NotAfter().Add(-366 * day), ""},
		{"the CA's, soon", issued, authority.NotAfter().Add(-364 * day), "the CA's certificate expires at"},
		{"the CA's, too late", issued, authority.NotAfter().Add(time.Second), "the CA's certificate expired at"},
		{"no CA yet", onDisk(t), authority.NotAfter(), ""},
	} {
		got := test.c.warnings(test.now)
		if test.want == "" && len(got) > 0 ||
			test.want != "" && (len(got) != 1 || !strings.HasPrefix(got[0].String(), test.want)) {
			t.Errorf("%s: got the warnings %v, want %q", test.name, got, test.want)
		}
	}
}

// TestLoadRefuses tests that Load refuses a configuration that another user can write, or that is in
// a directory that another user can write. Reading it is no mistake.
func TestLoadRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		change func(path string) error
		want   string // a part of the error; empty: none
	}{
		"nobody else":            {func(path string) error { return os.Chmod(path, 0o600) }, ""},
		"all can read it":        {func(path string) error { return os.Chmod(path, 0o644) }, ""},
		"all can write it":       {func(path string) error { return os.Chmod(path, 0o666) }, `kmsgate.yaml" is writable by all users (run chmod o-w `},
		"all can replace it":     {func(path string) error { return os.Chmod(filepath.Dir(path), 0o777) }, `" is writable by all users (run chmod o-w `},
		"it is in a sticky one":  {func(path string) error { return os.Chmod(filepath.Dir(path), 0o777|os.ModeSticky) }, ""},
		"it belongs to another":  {func(path string) error { return os.Chown(path, 65534, 65534) }, "belongs to uid 65534"},
		"its directory does":     {func(path string) error { return os.Chown(filepath.Dir(path), 65534, 65534) }, "belongs to uid 65534"},
		"another group writes":   {func(path string) error { return errors.Join(os.Chown(path, -1, 65534), os.Chmod(path, 0o660)) }, "is writable by a group"},
		"another group reads it": {func(path string) error { return errors.Join(os.Chown(path, -1, 65534), os.Chmod(path, 0o640)) }, ""},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, FileName)
		chmod(t, dir, 0o755)
		write(t, path, minimal, 0o644)
		if err := test.change(path); errors.Is(err, syscall.EPERM) && os.Getuid() != 0 {
			continue // only root can give files to other users
		} else if err != nil {
			t.Fatal(err)
		}
		c, err := Load(path)
		var other *ownership.Error
		if (c == nil) == (test.want == "") || test.want != "" && (!errors.As(err, &other) || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: got %v, %v, want the error %q", name, c, err, test.want)
		}
		if written, err := LoadWritten(path); err != nil || written == nil {
			t.Errorf("%s: LoadWritten: got %v", name, err)
		}
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// expectMistakes compares the starts of the mistakes' lines.
func expectMistakes(t *testing.T, err error, dir string, want []string) {
	t.Helper()
	var got []string
	if err != nil {
		got = strings.Split(err.Error(), "\n")
	}
	for i := range want {
		want[i] = strings.ReplaceAll(want[i], "%s", dir)
		if i < len(got) && strings.HasPrefix(got[i], want[i]) {
			got[i] = want[i]
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPIN(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "pin")
	for content, want := range map[string]string{
		"1234": "1234", "1234\n": "1234", "1234\r\n": "1234", " 12 34 ": " 12 34 ",
		"": "empty", "\n": "is empty", "1234\n\n": "more than one line", "1234\n5678\n": "more than one line",
		strings.Repeat("1", 2000): "more than 1024 bytes",
	} {
		write(t, path, content, 0o600)
		t.Setenv("KMSGATE_TEST_PIN", content)
		for _, token := range []Token{{PINFile: path}, {PINEnv: "KMSGATE_TEST_PIN"}} {
			pin, err := (&Config{Token: token}).PIN()
			if err != nil && !strings.Contains(err.Error(), want) || err == nil && string(pin) != want {
				t.Errorf("PIN of %q: got %q, %v, want %s", content, string(pin), err, want)
			}
		}
	}
}

// TestPINFile tests which files are refused. Opening a pipe must not wait for its writer.
func TestPINFile(t *testing.T) {
	dir := t.TempDir()
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o610, 0o666} {
		path := filepath.Join(dir, mode.String())
		write(t, path, "1234", mode)
		if _, err := readPINFile(path); err == nil || !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("mode %v: got %v, want the advice chmod 600", mode, err)
		}
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, pipe} {
		if _, err := readPINFile(path); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("%s: got %v, want that it is not a regular file", path, err)
		}
	}
	if _, err := (&Config{Token: Token{SoftHSM: dir}}).PIN(); err == nil {
		t.Error("PIN with token.softhsm: got no error")
	}
}

// TestAccessHint tests that the advice for a user without permission is to run as another user.
func TestAccessHint(t *testing.T) {
	const advice = "correct the path"
	for err, want := range map[error]string{
		syscall.EACCES: "run as root or as the gateway's user",
		syscall.ENOENT: advice,
	} {
		if got := accessHint(&os.PathError{Op: "open", Path: "pin", Err: err}, advice); got != want {
			t.Errorf("accessHint(%v) = %q, want %q", err, got, want)
		}
	}
}

func TestUserType(t *testing.T) {
	for text, want := range map[string]uint{"": 0, "user": 1, "crypto_user": 0x80000001} {
		if got := (Token{UserType: text}).UserTypeNumber(); got != want {
			t.Errorf("user type of %q: got %#x, want %#x", text, got, want)
		}
	}
}
