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

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/clientkey"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

var created = kms.CreateClientKeyResponse{ClientKeyId: "KAAP.1", PrivateKeyData: []byte("private"), NotBefore: "b", NotAfter: "a"}

// TestWrite writes both files where they are expected, for their owner only.
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
		if out == "key" { // its password would be in the file of the one before
			password = ""
		}
		want.ClientKeyId, want.NotBefore, want.NotAfter = "KAAP.1", "b", "a"
		got, err := clientkey.Write(created, out, password)
		if err != nil || got != want {
			t.Errorf("to %q: %+v, %v, want %+v", out, got, err, want)
		}
		var file clientkey.File
		text, err := os.ReadFile(got.File)
		if err := errors.Join(err, json.Unmarshal(text, &file)); err != nil || file.KeyId != "KAAP.1" || file.PrivateKeyData != base64.StdEncoding.EncodeToString([]byte("private")) {
			t.Errorf("%s has %s, %v", got.File, text, err)
		}
		for _, path := range []string{got.File, got.PasswordFile} {
			if info, err := os.Stat(path); path != "" && (err != nil || info.Mode() != 0o600) {
				t.Errorf("%s: %v, %v", path, info, err)
			}
		}
	}
}

// TestWriteNothing: where one of the files cannot be written, or is there already, there is
// neither.
func TestWriteNothing(t *testing.T) {
	dir := t.TempDir()
	password := filepath.Join(dir, "key_Password.txt")
	if err := os.WriteFile(password, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := clientkey.Write(created, filepath.Join(dir, "key.json"), "secret"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("the password's file is taken: %v", err)
	}
	if _, err := clientkey.Write(created, filepath.Join(dir, "none", "key.json"), "secret"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	evil := created
	evil.ClientKeyId = "../evil"
	if _, err := clientkey.Write(evil, dir, "secret"); err == nil {
		t.Error("an id leads out of the directory")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("there is %v, %v", entries, err)
	}
	if text, err := os.ReadFile(password); err != nil || string(text) != "mine" {
		t.Errorf("somebody's file has %q, %v", text, err)
	}
}

func TestNewPassword(t *testing.T) {
	one, other := clientkey.NewPassword(), clientkey.NewPassword()
	if form := regexp.MustCompile(`^[A-Z2-7]{13}-[A-Z2-7]{13}$`); !form.MatchString(one) || one == other {
		t.Errorf("the passwords are %s and %s", one, other)
	}
}
