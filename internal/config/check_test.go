package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
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

// certify writes a certificate and its key to dir/cert and dir/key.
func certify(t *testing.T, dir string, from, until time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: until}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "cert"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})),
		0o644)
	write(t, filepath.Join(dir, "key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), 0o600)
}

func TestCheck(t *testing.T) {
	now := time.Now()
	for _, test := range []struct {
		name  string
		spoil func(c *Config, dir string)
		want  []string // the starts of the mistakes; none: no mistake
	}{
		{"softhsm", func(c *Config, dir string) { c.Token = Token{SoftHSM: dir + "/new"} }, nil},
		{"own certificate", func(c *Config, dir string) { certify(t, dir, now.Add(-time.Hour), now.Add(time.Hour)) },
			nil},
		{"no directory", func(c *Config, dir string) { c.Directory = dir + "/none" }, []string{"directory: stat"}},
		{"a file for a directory", func(c *Config, dir string) { c.Directory = dir + "/pin" },
			[]string{`directory: "%s/pin" is not a directory`}},
		{"open directory", func(c *Config, dir string) { chmod(t, dir, 0o777) }, []string{
			`directory: the directory "%s" is writable by all users, who could replace its files (run chmod o-w %s)`,
			`admin.socket: the directory "%s" is accessible to users other than its owner (run chmod 700 %s`,
		}},
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
		{"no certificate, no key", func(c *Config, dir string) {}, []string{"tls.certificate: open", "tls.key: open"}},
		{"another's key", func(c *Config, dir string) {
			certify(t, dir, now.Add(-time.Hour), now.Add(time.Hour))
			first, err := os.ReadFile(dir + "/key")
			if err != nil {
				t.Fatal(err)
			}
			certify(t, dir, now.Add(-time.Hour), now.Add(time.Hour))
			write(t, dir+"/key", string(first), 0o600)
		}, []string{"tls.key: does not match tls.certificate: they must be"}},
		{"expired", func(c *Config, dir string) { certify(t, dir, now.Add(-2*time.Hour), now.Add(-time.Hour)) },
			[]string{"tls.certificate: the certificate expired at"}},
		{"not yet valid", func(c *Config, dir string) { certify(t, dir, now.Add(time.Hour), now.Add(2*time.Hour)) },
			[]string{"tls.certificate: the certificate is not valid before"}},
		{"all", func(c *Config, dir string) {
			c.Directory, c.Token.Module, c.Token.PINFile = dir+"/none", dir+"/none", dir+"/none"
		}, []string{"directory: ", "token.module: ", "token.pin_file: "}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := onDisk(t)
			dir := c.Directory
			if strings.Contains(test.name, "certificate") || strings.Contains(fmt.Sprint(test.want), "tls.") {
				c.TLS = TLS{Certificate: dir + "/cert", Key: dir + "/key"}
			}
			test.spoil(c, dir)
			expectMistakes(t, c.Check(), dir, test.want)
		})
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
