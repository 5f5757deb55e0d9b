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

// login connects to the token and disconnects again.
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
		t.Error("opened again, the token has another PIN")
	}
	moved := filepath.Join(t.TempDir(), "moved")
	if err := os.Rename(dir, moved); err != nil {
		t.Fatal(err)
	}
	if err := login(open(t, moved)); err != nil {
		t.Errorf("after the directory was moved: %v", err)
	}
	err := filepath.WalkDir(moved, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v: others have rights to it", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestInterrupted starts over from what a kill during creation leaves, and
// leaves nothing itself when it fails.
func TestInterrupted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "softhsm")
	if err := os.MkdirAll(filepath.Join(dir+".new", "tokens", "half"), 0o700); err != nil {
		t.Fatal(err)
	}
	failure := errors.New("no")
	if _, err := softhsm.Open(dir, func(string, string, string, string) error { return failure }); !errors.Is(err, failure) {
		t.Errorf("Open: %v, want the failure", err)
	}
	if left, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(left) != 0 {
		t.Errorf("a failed Open left %v, %v", left, err)
	}
	if err := login(open(t, dir)); err != nil {
		t.Error(err)
	}
}

// TestGuard empties token.object, as a kill during a login does.
func TestGuard(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "softhsm")
	soft := open(t, dir)
	if err := login(soft); err != nil {
		t.Fatal(err)
	}
	objects, err := filepath.Glob(filepath.Join(dir, "tokens", "*", "token.object"))
	if err != nil || len(objects) != 1 {
		t.Fatalf("%v, %v: want one token.object", objects, err)
	}
	for name, damage := range map[string]func() error{
		"empty":   func() error { return os.Truncate(objects[0], 0) },
		"missing": func() error { return os.Remove(objects[0]) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if err := login(open(t, dir)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.Truncate(objects[0], 0); err != nil {
		t.Fatal(err)
	}
	if err := soft.Guard(); err != nil {
		t.Error(err)
	}
	if err := login(open(t, dir)); err != nil {
		t.Errorf("guarding an empty file overwrote the copy: %v", err)
	}
	if err := errors.Join(os.Truncate(objects[0], 0), os.RemoveAll(filepath.Join(dir, "guarded"))); err != nil {
		t.Fatal(err)
	}
	if _, err := softhsm.Open(dir, initialize); err == nil || !strings.Contains(err.Error(), "restore") {
		t.Errorf("Open without any copy: %v, want what to do", err)
	}
}

func TestModule(t *testing.T) {
	t.Setenv("SOFTHSM2_MODULE", "/nonexistent.so")
	dir := filepath.Join(t.TempDir(), "softhsm")
	_, err := softhsm.Open(dir, initialize)
	if err == nil || !strings.Contains(err.Error(), "apt-get install softhsm2") {
		t.Errorf("Open without SoftHSM: %v, want what to do", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open without SoftHSM made %s", dir)
	}
}
