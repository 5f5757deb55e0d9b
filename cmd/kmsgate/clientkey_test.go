package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestCreateClientKey writes a client key and a password that was made up, each for
// its owner only, and prints neither.
func TestCreateClientKey(t *testing.T) {
	for _, out := range []string{"", ".", "new.json", "new"} {
		t.Chdir(t.TempDir())
		g := &fakeGateway{answers: map[string]string{"CreateClientKey": aClientKey}}
		args := []string{"clientkey", "create", "--aap", "app"}
		if out != "" {
			args = append(args, "--out", out)
		}
		stdout, stderr, err := g.kmsgate("", args...)
		if err != nil {
			t.Fatal(err)
		}
		key, password := "clientKey_KAAP.1.json", "clientKey_KAAP.1_Password.txt"
		if strings.HasPrefix(out, "new") {
			key, password = out, "new_Password.txt"
		}
		text := readPrivate(t, key)
		var content map[string]string
		if err := json.Unmarshal([]byte(text), &content); err != nil || len(content) != 2 || content["KeyId"] != "KAAP.1" || content["PrivateKeyData"] != "c2VjcmV0" {
			t.Errorf("--out %q: %s, %v", out, text, err)
		}
		made := readPrivate(t, password)
		if !regexp.MustCompile(`^[A-Z2-7]{13}-[A-Z2-7]{13}$`).MatchString(made) || g.calls[0] != "CreateClientKey AapName=app Password="+made {
			t.Errorf("--out %q: the password %q; asked for %q", out, made, g.calls)
		}
		if all := stdout + stderr; strings.Contains(all, "c2VjcmV0") || strings.Contains(all, made) || !strings.Contains(all, key) || !strings.Contains(all, password) {
			t.Errorf("--out %q: it printed %q", out, all)
		}
		if files, err := os.ReadDir("."); err != nil || len(files) != 2 {
			t.Errorf("--out %q: %v, %v", out, files, err)
		}
	}
}

func readPrivate(t *testing.T, path string) string {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%s: %v, %v", path, info, err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestClientKeyNotWritten: if its files cannot be written, the client key is deleted again.
// No file is left behind, and none is overwritten.
func TestClientKeyNotWritten(t *testing.T) {
	for _, taken := range []string{"clientKey_KAAP.1.json", "clientKey_KAAP.1_Password.txt"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, taken), []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		g := &fakeGateway{answers: map[string]string{"CreateClientKey": aClientKey}}
		stdout, _, err := g.kmsgate("", "clientkey", "create", "--aap", "app", "--out", dir)
		if err == nil || !strings.Contains(err.Error(), "writing the client key's file (the client key is deleted again)") || !errors.Is(err, os.ErrExist) || stdout != "" {
			t.Errorf("%s is taken: %v, printed %q", taken, err, stdout)
		}
		if len(g.calls) != 2 || g.calls[1] != "DeleteClientKey ClientKeyId=KAAP.1" {
			t.Errorf("%s is taken: asked for %q", taken, g.calls)
		}
		if text, err := os.ReadFile(filepath.Join(dir, taken)); err != nil || string(text) != "mine" {
			t.Errorf("%s was overwritten: %q, %v", taken, text, err)
		}
		if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
			t.Errorf("%s is taken: %v, %v", taken, files, err)
		}
	}
	dir := t.TempDir()
	g := &fakeGateway{answers: map[string]string{"CreateClientKey": strings.ReplaceAll(aClientKey, "KAAP.1", "../KAAP.1")}, refuse: map[string]error{"DeleteClientKey": errors.New("503 gone")}}
	_, _, err := g.kmsgate("", "clientkey", "create", "--aap", "app", "--out", dir)
	if err == nil || !strings.Contains(err.Error(), "run kmsgate clientkey delete ../KAAP.1") || !strings.Contains(err.Error(), "503 gone") {
		t.Errorf("when it cannot be deleted either: %v", err)
	}
	if strings.Contains(err.Error(), "c2VjcmV0") {
		t.Errorf("the error tells the key: %v", err)
	}
}
