package software_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/hsm/privatekey"
	"github.com/kmsgate/kmsgate/hsm/software"
)

func open(t *testing.T, dir string) hsm.Token {
	t.Helper()
	tok, err := software.Device(dir).Open(true, nil)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// TestContract holds tokens in memory and in a directory to the contracts of every backend.
func TestContract(t *testing.T) {
	for name, tok := range map[string]hsm.Token{"memory": software.New(), "directory": open(t, t.TempDir())} {
		t.Run(name, func(t *testing.T) {
			hsmtest.TestBackend(t, tok, hsm.KeySpecs()...)
			hsmtest.TestBackend(t, tok.Audit(), hsm.EC_P256, hsm.RSA_2048)
			hsmtest.TestAuditKeeper(t, tok)
			hsmtest.TestRandomizer(t, tok)
			sealed, err := tok.Seal(t.Context(), []byte("secret"), []byte("aad"))
			if err != nil || bytes.Contains(sealed, []byte("secret")) {
				t.Fatalf("Seal: %q, %v", sealed, err)
			}
			if plaintext, err := tok.Unseal(t.Context(), sealed, []byte("aad")); err != nil || string(plaintext) != "secret" {
				t.Errorf("Unseal: %q, %v", plaintext, err)
			}
			for _, aad := range []string{"", "aae"} {
				if plaintext, err := tok.Unseal(t.Context(), sealed, []byte(aad)); err == nil {
					t.Errorf("Unseal with aad %q: %q", aad, plaintext)
				}
			}
		})
	}
}

// TestReopen opens a directory again: keys and sealed secrets are as before, and the files are only
// their owner's.
func TestReopen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	d := software.Device(dir)
	if err := d.Inspect(func(hsm.Inspector) error { return errors.New("there is nothing to inspect") }); err != nil {
		t.Errorf("Inspect of no directory: %v", err)
	}
	if _, err := d.Open(false, nil); !errors.Is(err, hsm.ErrNotOurs) || !strings.Contains(err.Error(), dir) {
		t.Errorf("Open of no directory: %v", err)
	}
	first := open(t, dir)
	sealed, err := first.Seal(t.Context(), []byte("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	var keys []hsm.Key
	for i, spec := range hsm.KeySpecs() {
		k, err := first.Generate(t.Context(), spec, bytes.Repeat([]byte{byte(i)}, 16))
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	given, err := privatekey.New(hsm.EC_P256)
	if err != nil {
		t.Fatal(err)
	}
	imported, err := first.(*software.Token).Import(t.Context(), given, bytes.Repeat([]byte{9}, 16))
	if err != nil || !bytes.Equal(imported.Public, given.Public()) {
		t.Fatalf("Import: %v", err)
	}
	keys = append(keys, imported)
	auditKey, err := first.Audit().Generate(t.Context(), hsm.EC_P256, bytes.Repeat([]byte{10}, 16))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := first.Generate(t.Context(), hsm.EC_P256, imported.ID); err == nil {
		t.Errorf("a key with an ID that exists: %+v", again)
	}
	second := open(t, dir)
	if plaintext, err := second.Unseal(t.Context(), sealed, nil); err != nil || string(plaintext) != "secret" {
		t.Errorf("Unseal: %q, %v", plaintext, err)
	}
	for _, k := range keys {
		if err := hsm.SelfTest(t.Context(), second, k); err != nil {
			t.Error(err)
		}
	}
	if err := hsm.SelfTest(t.Context(), second.Audit(), auditKey); err != nil {
		t.Error(err)
	}
	if err := hsm.SelfTest(t.Context(), second, auditKey); !errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("signing with the audit key: %v, want ErrNotFound", err)
	}
	keys = append(keys, auditKey)
	objects := 0
	if err := d.Inspect(func(i hsm.Inspector) error {
		all, err := i.Objects(t.Context())
		objects = len(all)
		return err
	}); err != nil || objects != 2*len(keys) {
		t.Errorf("Inspect: %d objects, %v", objects, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != len(keys)+1 {
		t.Errorf("the files are %v, %v", entries, err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", e.Name(), info.Mode(), err)
		}
	}
	for _, k := range keys {
		if err := second.Destroy(t.Context(), k); err != nil {
			t.Error(err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*.pem")); err != nil || len(left) != 0 {
		t.Errorf("after Destroy: %v, %v", left, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sealing.key"), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Open(true, nil); err == nil || !strings.Contains(err.Error(), "5 bytes instead of 32") {
		t.Errorf("a damaged sealing key: %v", err)
	}
}

// TestCannotBeMistaken: what a software token says of itself passes for no protection.
func TestCannotBeMistaken(t *testing.T) {
	tok := software.New()
	k, err := tok.Generate(context.Background(), hsm.EC_P256, make([]byte, 16))
	if err != nil {
		t.Fatal(err)
	}
	attributes, err := tok.Attributes(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range attributes {
		if a.Name == "CKA_SENSITIVE" && a.Value != "false" || a.Name == "CKA_EXTRACTABLE" && a.Value != "true" {
			t.Errorf("it reports %+v", a)
		}
	}
}
