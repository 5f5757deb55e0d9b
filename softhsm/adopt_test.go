package softhsm_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/token"
	"github.com/kmsgate/kmsgate/softhsm"
)

const foreignPIN = "87654321"

// foreign creates a token as an operator does, in a SoftHSM configured by SOFTHSM2_CONF. It returns
// the module, a directory for copies and the path of the token.object.
func foreign(t *testing.T) (module, guarded, object string) {
	t.Helper()
	module, err := softhsm.Module()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	configure(t, dir, "# ours\ndirectories.tokendir = "+dir+"/elsewhere\n"+
		" directories.tokendir="+dir+"/tokens # here\nobjectstore.backend = file\n")
	if err := os.Mkdir(filepath.Join(dir, "tokens"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := token.Init(module, "bank", "12345678", foreignPIN); err != nil {
		t.Fatal(err)
	}
	objects, err := filepath.Glob(filepath.Join(dir, "tokens", "*", "token.object"))
	if err != nil || len(objects) != 1 {
		t.Fatalf("token.object: got %v, %v, want one file", objects, err)
	}
	return module, filepath.Join(dir, "guarded"), objects[0]
}

func configure(t *testing.T, dir, text string) {
	t.Helper()
	conf := filepath.Join(dir, "softhsm2.conf")
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", conf)
}

// use uses the token as a gateway does: it adopts it, logs in, signs with the canary and closes it.
func use(t *testing.T, module, guarded string) error {
	t.Helper()
	soft, err := softhsm.Adopt(module, guarded)
	if err != nil || soft == nil {
		t.Fatalf("Adopt: got %v, %v, want a token", soft, err)
	}
	tok, err := token.Open(token.Config{
		Module: module, Label: "bank", PIN: foreignPIN,
		Provision: true, BeforeLogin: soft.Guard, AfterChange: soft.Flush,
	})
	if err != nil {
		return err
	}
	return errors.Join(tok.Health(t.Context()), tok.Close())
}

// damages are the kinds of damage that SoftHSM's files have suffered.
var damages = map[string]func(path string) error{
	"empty":   func(path string) error { return os.Truncate(path, 0) },
	"missing": os.Remove,
	"truncated": func(path string) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		return os.Truncate(path, info.Size()/2)
	},
}

// TestAdopt destroys the token.object of an operator's token in every way. The next start must
// restore it.
func TestAdopt(t *testing.T) {
	module, guarded, object := foreign(t)
	if err := use(t, module, guarded); err != nil {
		t.Fatal(err)
	}
	for name, damage := range damages {
		if err := damage(object); err != nil {
			t.Fatal(err)
		}
		if err := use(t, module, guarded); err != nil {
			t.Errorf("%s: got %v, want nil", name, err)
		}
	}
	info, err := os.Stat(guarded)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode of the copies' directory: got %v, %v, want drwx------", info.Mode(), err)
	}
	if err := errors.Join(os.RemoveAll(guarded), os.Truncate(object, 0)); err != nil {
		t.Fatal(err)
	}
	if err := use(t, module, guarded); err == nil {
		t.Error("token with an empty token.object and no copy: got nil, want an error")
	}
}

// TestToken finds a token among those in one directory by the label or serial number that SoftHSM
// reports, even while a login is rewriting the token's files.
func TestToken(t *testing.T) {
	module, guarded, object := foreign(t)
	if err := errors.Join(token.Init(module, "other", "12345678", foreignPIN), use(t, module, guarded)); err != nil {
		t.Fatal(err)
	}
	files, ok, err := softhsm.FilesOf(module, guarded)
	if err != nil || !ok || files.Configuration != os.Getenv("SOFTHSM2_CONF") {
		t.Fatalf("FilesOf: got %+v, %v, %v, want the configuration of SOFTHSM2_CONF", files, ok, err)
	}
	var serial string
	err = token.Inspect(token.Config{Module: module, Label: "bank", PIN: foreignPIN}, func(i hsm.Inspector) error {
		s, err := i.Survey(t.Context())
		serial = s.Token.Serial
		return err
	})
	if err != nil || serial == "" {
		t.Fatalf("serial number: got %q, %v", serial, err)
	}
	find := func(state string) {
		t.Helper()
		for _, id := range [][2]string{{"bank", ""}, {"", serial}} {
			if dir, err := files.Token(id[0], id[1]); err != nil || dir != filepath.Dir(object) {
				t.Errorf("%s: directory of token %q: got %q, %v, want %q", state, id, dir, err, filepath.Dir(object))
			}
		}
	}
	find("intact")
	whole, err := os.ReadFile(object)
	if err != nil {
		t.Fatal(err)
	}
	for name, damage := range damages {
		if err := errors.Join(os.WriteFile(object, whole, 0o600), damage(object)); err != nil {
			t.Fatal(err)
		}
		find(name)
	}
	other, err := files.Token("other", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(other+"-again", os.DirFS(other)); err != nil {
		t.Fatal(err)
	}
	for _, id := range [][2]string{{"other", ""}, {"third", ""}, {"", "bank"}, {"", serial[1:]}} {
		if dir, err := files.Token(id[0], id[1]); err == nil {
			t.Errorf("directory of token %q: got %q, want an error", id, dir)
		}
	}
}

// TestRetarget checks that Retarget changes the token directory and nothing else.
func TestRetarget(t *testing.T) {
	const text = "# ours\n directories.tokendir= /a # here\nobjectstore.backend = file\n" +
		"directories.tokendir = /b\n#directories.tokendir = /c\nlog.level = INFO"
	const want = "# ours\nobjectstore.backend = file\n#directories.tokendir = /c\nlog.level = INFO\n" +
		"directories.tokendir = /new\n"
	if got := softhsm.Retarget(text, "/new"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestAdoptNothing checks which modules Adopt ignores, and that its errors advise the operator.
func TestAdoptNothing(t *testing.T) {
	dir := t.TempDir()
	module := filepath.Join(dir, "libsofthsm2.so")
	link := filepath.Join(dir, "hsm.so")
	if err := errors.Join(os.WriteFile(module, nil, 0o600), os.Symlink(module, link)); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, module, conf, want string }{
		{"another module", "/usr/lib/libCryptoki2_64.so", "directories.tokendir = /nonexistent\n", ""},
		{"a database", module, "objectstore.backend = db\n", ""},
		{"no directory", module, "directories.tokendir = /nonexistent\n", "/nonexistent"},
		{"a link", link, "directories.tokendir = /nonexistent\n", "/nonexistent"},
	} {
		configure(t, dir, tc.conf)
		soft, err := softhsm.Adopt(tc.module, filepath.Join(dir, "guarded"))
		if soft != nil || (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, %v, want error %q", tc.name, soft, err, tc.want)
		}
	}
	t.Setenv("SOFTHSM2_CONF", "")
	if _, err := softhsm.Adopt(module, dir); err == nil || !strings.Contains(err.Error(), "SOFTHSM2_CONF") {
		t.Errorf("without a configuration: got %v, want advice", err)
	}
}

// TestConfigurationPath checks that this package reads the same configuration as SoftHSM: the token
// that SoftHSM creates is in the guarded directory.
func TestConfigurationPath(t *testing.T) {
	module, err := softhsm.Module()
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	conf := filepath.Join(home, ".config", "softhsm2", "softhsm2.conf")
	if err := errors.Join(os.MkdirAll(filepath.Dir(conf), 0o700), os.Mkdir(filepath.Join(home, "tokens"), 0o700),
		os.WriteFile(conf, []byte("directories.tokendir = "+home+"/tokens\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", home)
	t.Setenv("SOFTHSM2_CONF", "") // restores the variable at the test's end
	if err := os.Unsetenv("SOFTHSM2_CONF"); err != nil {
		t.Fatal(err)
	}
	if err := token.Init(module, "home", "12345678", foreignPIN); err != nil {
		t.Fatal(err)
	}
	files, ok, err := softhsm.FilesOf(module, filepath.Join(home, "guarded"))
	if err != nil || !ok {
		t.Fatalf("FilesOf: got %v, %v, want true, nil", ok, err)
	}
	objects, err := filepath.Glob(filepath.Join(files.Tokens, "*", "token.object"))
	if err != nil || len(objects) != 1 {
		t.Errorf("token.object in %q: got %v, %v, want one file", files.Tokens, objects, err)
	}
}
