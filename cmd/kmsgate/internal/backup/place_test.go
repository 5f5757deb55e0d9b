package backup

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestStartsOver tests that a restore removes the files of a killed restore, and refuses a
// directory with other files.
func TestStartsOver(t *testing.T) {
	for name, tc := range map[string]struct {
		files   []string
		cleared bool
	}{
		"killed before": {[]string{"lock", "restoring/kmsgate.db", "restoring/kmsgate.yaml"}, true},
		"killed in between": {[]string{"lock", "restoring/kmsgate.db", "ca.pem", "softhsm/pin",
			"kmsgate.yaml.backup", "kmsgate.db.schema-3", "audit.log"}, true},
		"somebody's":           {[]string{"kmsgate.db", "ca.pem"}, false},
		"an instance":          {[]string{"restoring/x", "kmsgate.yaml", "kmsgate.db"}, false},
		"another file with it": {[]string{"restoring/x", "precious"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := restoration{RestoreOptions: RestoreOptions{Dir: t.TempDir()}}
			for _, file := range tc.files {
				path := filepath.Join(r.Dir, file)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700),
					os.WriteFile(path, []byte("x"), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			finish, err := r.begin()
			if (err == nil) != tc.cleared {
				t.Fatalf("begin: got %v, want success %v", err, tc.cleared)
			}
			left, err := os.ReadDir(r.Dir)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, e := range left {
				names = append(names, e.Name())
			}
			if !tc.cleared {
				for _, file := range tc.files {
					if _, err := os.Stat(filepath.Join(r.Dir, file)); err != nil {
						t.Errorf("begin removed a file: %v", err)
					}
				}
				return
			}
			if want := []string{"lock"}; !slices.Equal(names, want) &&
				!slices.Equal(names, []string{"audit.log", "lock"}) {
				t.Errorf("the directory has %v, want %v", names, want)
			}
			if err := finish(nil); err != nil {
				t.Error(err)
			}
		})
	}
}
