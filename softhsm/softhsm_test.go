package softhsm_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/hsm/token"
	"github.com/kmsgate/kmsgate/softhsm"
)

func initialize(module, label, officerPIN, userPIN string) error {
	return token.Init(module, label, token.PIN(officerPIN), token.PIN(userPIN))
}

func open(t *testing.T, dir string) *softhsm.Token {
	t.Helper()
	soft, err := softhsm.Open(dir, initialize)
	if err != nil {
		t.Fatal(err)
	}
	return soft
}

// login logs in to the token and closes it again.
func login(soft *softhsm.Token) error {
	tok, err := token.Open(token.Config{
		Module: soft.Module, Label: softhsm.Label, PIN: token.PIN(soft.PIN()),
		Provision: true, BeforeLogin: soft.Guard, AfterChange: soft.Flush,
	})
	if err != nil {
		return err
	}
	return tok.Close()
}

func TestOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "softhsm")
	soft := open(t, dir)
	if err := login(soft); err != nil {
		t.Fatal(err)
	}
	if again := open(t, dir); again.PIN() != soft.PIN() {
		t.Error("PIN after opening again: got another PIN, want the same")
	}
	moved := filepath.Join(t.TempDir(), "moved")
	if err := os.Rename(dir, moved); err != nil {
		t.Fatal(err)
	}
	if err := login(open(t, moved)); err != nil {
		t.Errorf("after moving the directory: got %v, want nil", err)
	}
	err := filepath.WalkDir(moved, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("mode of %q: got %v, want no access for others", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestInterrupted checks that Open replaces the remains of a killed creation, and that a failed
// creation leaves nothing.
func TestInterrupted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "softhsm")
	if err := os.MkdirAll(filepath.Join(dir+".new", "tokens", "half"), 0o700); err != nil {
		t.Fatal(err)
	}
	failure := errors.New("no")
	if _, err := softhsm.Open(dir, func(string, string, string, string) error { return failure }); !errors.Is(err,
		failure) {
		t.Errorf("Open: got %v, want the error of initialize", err)
	}
	if entries, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(entries) != 0 {
		t.Errorf("files after a failed Open: got %v, %v, want none", entries, err)
	}
	if err := login(open(t, dir)); err != nil {
		t.Error(err)
	}
}

// TestGuard destroys token.object as a kill during a login does, and checks that Open restores it.
func TestGuard(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "softhsm")
	soft := open(t, dir)
	if err := login(soft); err != nil {
		t.Fatal(err)
	}
	objects, err := filepath.Glob(filepath.Join(dir, "tokens", "*", "token.object"))
	if err != nil || len(objects) != 1 {
		t.Fatalf("token.object: got %v, %v, want one file", objects, err)
	}
	for name, damage := range map[string]func() error{
		"empty":   func() error { return os.Truncate(objects[0], 0) },
		"missing": func() error { return os.Remove(objects[0]) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if err := login(open(t, dir)); err != nil {
			t.Errorf("%s: got %v, want nil", name, err)
		}
	}
	if err := os.Truncate(objects[0], 0); err != nil {
		t.Fatal(err)
	}
	if err := soft.Guard(); err != nil {
		t.Error(err)
	}
	if err := login(open(t, dir)); err != nil {
		t.Errorf("login after guarding an empty file: got %v, want nil from the old copy", err)
	}
	if err := errors.Join(os.Truncate(objects[0], 0), os.RemoveAll(filepath.Join(dir, "guarded"))); err != nil {
		t.Fatal(err)
	}
	if _, err := softhsm.Open(dir, initialize); err == nil || !strings.Contains(err.Error(), "restore") {
		t.Errorf("Open without a copy: got %v, want advice", err)
	}
}

func TestModule(t *testing.T) {
	t.Setenv("SOFTHSM2_MODULE", "/nonexistent.so")
	dir := filepath.Join(t.TempDir(), "softhsm")
	_, err := softhsm.Open(dir, initialize)
	if err == nil || !strings.Contains(err.Error(), "apt-get install softhsm2") {
		t.Errorf("Open without SoftHSM: got %v, want advice", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("directory after Open without SoftHSM: got %v, want fs.ErrNotExist", err)
	}
}
