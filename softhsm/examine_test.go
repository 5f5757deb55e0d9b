package softhsm_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/softhsm"
)

// examined gives what is found in the files of a token.
func examined(t *testing.T, files softhsm.Files) []softhsm.Finding {
	t.Helper()
	found, err := files.Examine()
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestExamine damages every file of a token in every way. What is found is about
// that file, and it is a problem exactly if something is lost that no start
// brings back.
func TestExamine(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "softhsm")
	soft := open(t, dir)
	if err := login(soft); err != nil {
		t.Fatal(err)
	}
	if found := examined(t, soft.Files); len(found) != 0 {
		t.Fatalf("of a token that is as SoftHSM left it: %+v", found)
	}
	files, err := filepath.Glob(filepath.Join(dir, "tokens", "*", "*"))
	if err != nil || len(files) != 9 {
		t.Fatalf("%v, %v", files, err)
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
				expectFinding(t, examined(t, soft.Files), path, name, len(whole))
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
	case size == 0: // a lock: there is nothing in it to be lost
		want = ""
	case base == "generation":
		problem = damage == "cut short"
		if damage == "empty" { // SoftHSM writes it anew
			want = ""
		}
	case base == "token.object": // there is a copy
	case damage == "missing":
		want = strings.TrimSuffix(path, ".object") + ".lock"
	default:
		problem = damage == "cut short"
	}
	if want == "" {
		if len(found) != 0 {
			t.Errorf("%+v, want nothing", found)
		}
		return
	}
	if len(found) != 1 || found[0].Path != want || found[0].Problem != problem || found[0].What == "" || problem && found[0].Do == "" {
		t.Errorf("%+v, want one of %s, a problem: %v", found, want, problem)
	}
}

// TestExamineLost has a token.object destroyed that nothing brings back, a file
// that everyone can use and a copy of a token that is gone.
func TestExamineLost(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "softhsm")
	soft := open(t, dir)
	objects, err := filepath.Glob(filepath.Join(dir, "tokens", "*", "token.object"))
	if err != nil || len(objects) != 1 {
		t.Fatal(objects, err)
	}
	if err := os.Chmod(objects[0], 0o644); err != nil {
		t.Fatal(err)
	}
	if found := examined(t, soft.Files); len(found) != 1 || !found[0].Problem || !strings.Contains(found[0].Do, "chmod o= "+objects[0]) {
		t.Errorf("a public file: %+v", found)
	}
	if err := errors.Join(os.Chmod(objects[0], 0o600), os.Truncate(objects[0], 0)); err != nil {
		t.Fatal(err)
	}
	if found := examined(t, soft.Files); len(found) != 1 || !found[0].Problem || !strings.Contains(found[0].Do, "backup") {
		t.Errorf("an empty token.object without a copy: %+v", found)
	}
	if err := errors.Join(os.RemoveAll(filepath.Dir(objects[0])), os.WriteFile(filepath.Join(dir, "guarded", "gone.token.object"), []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if found := examined(t, soft.Files); len(found) != 1 || found[0].Problem || !strings.Contains(found[0].What, "not there any more") {
		t.Errorf("a copy of a token that is gone: %+v", found)
	}
}

// TestRemoveEmpty removes what is empty for long, and nothing else.
func TestRemoveEmpty(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	long := time.Now().Add(-time.Hour)
	for name, content := range map[string]string{"old.object": "", "old.lock": "", "new.object": "", "full.object": "x", "token.object": "", "a.lock": ""} {
		if err := os.WriteFile(path(name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if name != "new.object" {
			if err := os.Chtimes(path(name), long, long); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, name := range []string{"new.object", "full.object", "token.object", "a.lock", "none.object"} {
		if err := softhsm.RemoveEmpty(path(name)); err == nil {
			t.Errorf("%s was removed", name)
		}
	}
	if err := softhsm.RemoveEmpty(path("old.object")); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"old.object", "old.lock"} {
		if _, err := os.Stat(path(name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", name, err)
		}
	}
}
