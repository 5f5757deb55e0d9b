package softhsm_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/softhsm"
)

// examine returns the findings about the files of a token.
func examine(t *testing.T, files softhsm.Files) []softhsm.Finding {
	t.Helper()
	found, err := files.Examine()
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestExamine damages every file of a token in every way. The finding must name that file, and must
// be a problem only if data is lost that no start restores.
func TestExamine(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "softhsm")
	soft := open(t, dir)
	if err := login(soft); err != nil {
		t.Fatal(err)
	}
	if found := examine(t, soft.Files); len(found) != 0 {
		t.Fatalf("intact token: got %+v, want no findings", found)
	}
	files, err := filepath.Glob(filepath.Join(dir, "tokens", "*", "*"))
	if err != nil || len(files) != 9 {
		t.Fatalf("token files: got %v, %v, want 9", files, err)
	}
	for _, path := range files {
		for name, damage := range damages {
			t.Run(filepath.Base(path)+" "+name, func(t *testing.T) {
				whole, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if err := damage(path); err != nil {
					t.Fatal(err)
				}
				expectFinding(t, examine(t, soft.Files), path, name, len(whole))
				if err := os.WriteFile(path, whole, 0o600); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

func expectFinding(t *testing.T, found []softhsm.Finding, path, damage string, size int) {
	t.Helper()
	want, problem := path, false
	switch base := filepath.Base(path); {
	case size == 0: // a lock, which has no content to lose
		want = ""
	case base == "generation":
		problem = damage == "truncated"
		if damage == "empty" { // SoftHSM rewrites it
			want = ""
		}
	case base == "token.object": // a copy exists
	case damage == "missing":
		want = strings.TrimSuffix(path, ".object") + ".lock"
	default:
		problem = damage == "truncated"
	}
	if want == "" {
		if len(found) != 0 {
			t.Errorf("got %+v, want no findings", found)
		}
		return
	}
	if len(found) != 1 || found[0].Path != want || found[0].Problem != problem || found[0].What == "" ||
		problem && found[0].Do == "" {
		t.Errorf("got %+v, want one finding about %q with Problem %v", found, want, problem)
	}
}

// TestExamineLost examines a destroyed token.object without a copy, a file that everyone can use,
// and a copy for a token that no longer exists.
func TestExamineLost(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "softhsm")
	soft := open(t, dir)
	objects, err := filepath.Glob(filepath.Join(dir, "tokens", "*", "token.object"))
	if err != nil || len(objects) != 1 {
		t.Fatalf("token.object: got %v, %v, want one file", objects, err)
	}
	if err := os.Chmod(objects[0], 0o644); err != nil {
		t.Fatal(err)
	}
	if found := examine(t, soft.Files); len(found) != 1 || !found[0].Problem ||
		!strings.Contains(found[0].Do, "chmod o= "+objects[0]) {
		t.Errorf("a public file: got %+v, want one problem with the advice to run chmod", found)
	}
	if err := errors.Join(os.Chmod(objects[0], 0o600), os.Truncate(objects[0], 0)); err != nil {
		t.Fatal(err)
	}
	if found := examine(t, soft.Files); len(found) != 1 || !found[0].Problem ||
		!strings.Contains(found[0].Do, "backup") {
		t.Errorf("an empty token.object without a copy: got %+v, want one problem with advice", found)
	}
	if err := errors.Join(os.RemoveAll(filepath.Dir(objects[0])),
		os.WriteFile(filepath.Join(dir, "guarded", "gone.token.object"), []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if found := examine(t, soft.Files); len(found) != 1 || found[0].Problem ||
		!strings.Contains(found[0].What, "no longer exists") {
		t.Errorf("a copy for a missing token: got %+v, want one harmless finding", found)
	}
}

// TestExamineForeignDirectories checks that Examine ignores directories that file systems and
// administrators make among the tokens and in a token. A directory with a UUID as its name, or with
// a copy, is a token.
func TestExamineForeignDirectories(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "softhsm")
	soft := open(t, dir)
	objects, err := filepath.Glob(filepath.Join(dir, "tokens", "*", "token.object"))
	if err != nil || len(objects) != 1 {
		t.Fatalf("token.object: got %v, %v, want one file", objects, err)
	}
	token := filepath.Dir(objects[0])
	for _, path := range []string{filepath.Join(soft.Tokens, "lost+found"), filepath.Join(soft.Tokens, ".snapshot", "daily"),
		filepath.Join(soft.Tokens, "old tokens"), filepath.Join(token, "lost+found"), filepath.Join(token, ".snapshot")} {
		if err := errors.Join(os.MkdirAll(path, 0o700), os.Chmod(path, 0o777)); err != nil {
			t.Fatal(err)
		}
	}
	if found := examine(t, soft.Files); len(found) != 0 {
		t.Errorf("foreign directories: got %+v, want no findings", found)
	}
	if err := login(open(t, dir)); err != nil {
		t.Errorf("login beside foreign directories: %v", err)
	}
	const uuid = "11111111-1111-4111-8111-111111111111"
	if err := errors.Join(os.Mkdir(filepath.Join(soft.Tokens, uuid), 0o700),
		os.WriteFile(filepath.Join(soft.Guarded, "old tokens.token.object"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	found := examine(t, soft.Files)
	for _, name := range []string{uuid, "old tokens"} {
		path := filepath.Join(soft.Tokens, name, "token.object")
		if !slices.ContainsFunc(found, func(f softhsm.Finding) bool { return f.Path == path && f.Problem && f.Lost }) {
			t.Errorf("directory %q without its token.object: got %+v, want a lost token", name, found)
		}
	}
}

// TestRemoveEmpty checks that RemoveEmpty removes old empty object files and nothing else.
func TestRemoveEmpty(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	old := time.Now().Add(-time.Hour)
	for name, content := range map[string]string{
		"old.object": "", "old.lock": "", "new.object": "", "full.object": "x", "token.object": "", "a.lock": "",
	} {
		if err := os.WriteFile(path(name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if name != "new.object" {
			if err := os.Chtimes(path(name), old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, name := range []string{"new.object", "full.object", "token.object", "a.lock", "missing.object"} {
		if err := softhsm.RemoveEmpty(path(name)); err == nil {
			t.Errorf("RemoveEmpty(%q): got nil, want an error", name)
		}
	}
	if err := softhsm.RemoveEmpty(path("old.object")); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"old.object", "old.lock"} {
		if _, err := os.Stat(path(name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s after RemoveEmpty: got %v, want fs.ErrNotExist", name, err)
		}
	}
}
