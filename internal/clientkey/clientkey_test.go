package clientkey_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/internal/clientkey"
)

var created = kms.CreateClientKeyResponse{ClientKeyId: "KAAP.1", PrivateKeyData: []byte("private"), NotBefore: "b",
	NotAfter: "a"}

// TestWrite tests the paths, the content and the modes of both files.
func TestWrite(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.Mkdir("dir", 0o700); err != nil {
		t.Fatal(err)
	}
	for out, want := range map[string]clientkey.Written{
		"":         {File: "clientKey_KAAP.1.json", PasswordFile: "clientKey_KAAP.1_Password.txt"},
		"dir":      {File: "dir/clientKey_KAAP.1.json", PasswordFile: "dir/clientKey_KAAP.1_Password.txt"},
		"key.json": {File: "key.json", PasswordFile: "key_Password.txt"},
		"key":      {File: "key", PasswordFile: ""},
	} {
		password := "secret"
		if out == "key" { // its password file would be that of key.json
			password = ""
		}
		want.ClientKeyId, want.NotBefore, want.NotAfter = "KAAP.1", "b", "a"
		got, err := clientkey.Write(created, out, password)
		if err != nil || got != want {
			t.Errorf("Write to %q: got %+v, %v, want %+v", out, got, err, want)
		}
		var file clientkey.File
		text, err := os.ReadFile(got.File)
		if err := errors.Join(err, json.Unmarshal(text, &file)); err != nil || file.KeyId != "KAAP.1" ||
			file.PrivateKeyData != base64.StdEncoding.EncodeToString([]byte("private")) {
			t.Errorf("%s: got %s, %v, want the client key", got.File, text, err)
		}
		for _, path := range []string{got.File, got.PasswordFile} {
			if info, err := os.Stat(path); path != "" && (err != nil || info.Mode() != 0o600) {
				t.Errorf("%s: got %v, %v, want mode 0600", path, info, err)
			}
		}
	}
}

// TestWriteNothing tests that Write writes neither file if one of them exists or cannot be
// written.
func TestWriteNothing(t *testing.T) {
	dir := t.TempDir()
	password := filepath.Join(dir, "key_Password.txt")
	if err := os.WriteFile(password, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := clientkey.Write(created, filepath.Join(dir, "key.json"), "secret"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Write with an existing password file: got %v, want fs.ErrExist", err)
	}
	if _, err := clientkey.Write(created, filepath.Join(dir, "none", "key.json"), "secret"); !errors.Is(err,
		fs.ErrNotExist) {
		t.Errorf("Write without a directory: got %v, want fs.ErrNotExist", err)
	}
	evil := created
	evil.ClientKeyId = "../evil"
	if _, err := clientkey.Write(evil, dir, "secret"); err == nil {
		t.Error("Write of a ClientKeyId with a path: got no error")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("the directory has %v, %v, want only the existing file", entries, err)
	}
	if text, err := os.ReadFile(password); err != nil || string(text) != "mine" {
		t.Errorf("the existing file has %q, %v, want it unchanged", text, err)
	}
}

func TestNewPassword(t *testing.T) {
	one, other := clientkey.NewPassword(), clientkey.NewPassword()
	if form := regexp.MustCompile(`^[A-Z2-7]{13}-[A-Z2-7]{13}$`); !form.MatchString(one) || one == other {
		t.Errorf("NewPassword: got %q and %q, want two different ones that match %v", one, other, form)
	}
}
