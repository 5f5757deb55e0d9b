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

// foreign makes a token as an operator does, in a SoftHSM that SOFTHSM2_CONF
// configures, and gives its token.object.
func foreign(t *testing.T) (module, guarded, object string) {
	t.Helper()
	module, err := softhsm.Module()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	configure(t, dir, "# ours\ndirectories.tokendir = "+dir+"/elsewhere\n directories.tokendir="+dir+"/tokens # here\nobjectstore.backend = file\n")
	if err := os.Mkdir(filepath.Join(dir, "tokens"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := token.Init(module, "bank", "12345678", foreignPIN); err != nil {
		t.Fatal(err)
	}
	objects, err := filepath.Glob(filepath.Join(dir, "tokens", "*", "token.object"))
	if err != nil || len(objects) != 1 {
		t.Fatalf("%v, %v: want one token.object", objects, err)
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

// use starts with the token as a gateway does: adopt, log in, sign with the
// canary, end.
func use(t *testing.T, module, guarded string) error {
	t.Helper()
	soft, err := softhsm.Adopt(module, guarded)
	if err != nil || soft == nil {
		t.Fatalf("Adopt: %v, %v", soft, err)
	}
	tok, err := token.Open(token.Config{Module: module, Label: "bank", PIN: foreignPIN, Provision: true, BeforeLogin: soft.Guard, AfterChange: soft.Flush})
	if err != nil {
		return err
	}
	return errors.Join(tok.Health(t.Context()), tok.Close())
}

// damages are what has happened to files of SoftHSM.
var damages = map[string]func(path string) error{
	"empty":   func(path string) error { return os.Truncate(path, 0) },
	"missing": os.Remove,
	"cut short": func(path string) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		return os.Truncate(path, info.Size()/2)
	},
}

// TestAdopt destroys the token.object of a token that an operator made, in every
// way: the next start puts it back.
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
			t.Errorf("%s: %v", name, err)
		}
	}
	info, err := os.Stat(guarded)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the copies are in a directory of mode %v, %v", info.Mode(), err)
	}
	if err := errors.Join(os.RemoveAll(guarded), os.Truncate(object, 0)); err != nil {
		t.Fatal(err)
	}
	if err := use(t, module, guarded); err == nil {
		t.Error("a token was used whose token.object is empty, without a copy")
	}
}

// TestToken tells the tokens in one directory from each other, by what SoftHSM
// itself shows of them, whether or not a login is rewriting their files.
func TestToken(t *testing.T) {
	module, guarded, object := foreign(t)
	if err := errors.Join(token.Init(module, "other", "12345678", foreignPIN), use(t, module, guarded)); err != nil {
		t.Fatal(err)
	}
	files, ok, err := softhsm.FilesOf(module, guarded)
	if err != nil || !ok || files.Configuration != os.Getenv("SOFTHSM2_CONF") {
		t.Fatalf("%+v, %v, %v", files, ok, err)
	}
	var serial string
	err = token.Inspect(token.Config{Module: module, Label: "bank", PIN: foreignPIN}, func(i hsm.Inspector) error {
		s, err := i.Survey(t.Context())
		serial = s.Token.Serial
		return err
	})
	if err != nil || serial == "" {
		t.Fatalf("%q, %v", serial, err)
	}
	find := func(what string) {
		t.Helper()
		for _, by := range [][2]string{{"bank", ""}, {"", serial}} {
			if dir, err := files.Token(by[0], by[1]); err != nil || dir != filepath.Dir(object) {
				t.Errorf("%s: token %q is in %s, %v; want %s", what, by, dir, err, filepath.Dir(object))
			}
		}
	}
	find("whole")
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
	for _, by := range [][2]string{{"other", ""}, {"third", ""}, {"", "bank"}, {"", serial[1:]}} {
		if dir, err := files.Token(by[0], by[1]); err == nil {
			t.Errorf("token %q is in %s", by, dir)
		}
	}
}

// TestRetarget changes where the tokens are, and nothing else.
func TestRetarget(t *testing.T) {
	got := softhsm.Retarget("# ours\n directories.tokendir= /a # here\nobjectstore.backend = file\ndirectories.tokendir = /b\n#directories.tokendir = /c\nlog.level = INFO", "/new")
	if want := "# ours\nobjectstore.backend = file\n#directories.tokendir = /c\nlog.level = INFO\ndirectories.tokendir = /new\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestAdoptNothing shows what is left alone, and what is refused with what to do.
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
			t.Errorf("%s: %v, %v, want %q", tc.name, soft, err, tc.want)
		}
	}
	t.Setenv("SOFTHSM2_CONF", "")
	if _, err := softhsm.Adopt(module, dir); err == nil || !strings.Contains(err.Error(), "SOFTHSM2_CONF") {
		t.Errorf("without a configuration: %v, want what to do", err)
	}
}

// TestConfigurationPath shows that SoftHSM's own reader and ours read the same
// file: the token that it makes is in the directory that we guard.
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
	t.Setenv("SOFTHSM2_CONF", "") // so that it is set again in the end
	if err := os.Unsetenv("SOFTHSM2_CONF"); err != nil {
		t.Fatal(err)
	}
	if err := token.Init(module, "home", "12345678", foreignPIN); err != nil {
		t.Fatal(err)
	}
	files, ok, err := softhsm.FilesOf(module, filepath.Join(home, "guarded"))
	if err != nil || !ok {
		t.Fatalf("%v, %v", ok, err)
	}
	made, err := filepath.Glob(filepath.Join(files.Tokens, "*", "token.object"))
	if err != nil || len(made) != 1 {
		t.Errorf("SoftHSM made a token, and in %s there are %v, %v", files.Tokens, made, err)
	}
}
