package backup

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestStartsOver enters a directory: it starts over what restores leave that were killed while they put everything in
// its place, and leaves alone a directory that is somebody's.
func TestStartsOver(t *testing.T) {
	for name, tc := range map[string]struct {
		there []string
		empty bool
	}{
		"killed before":          {[]string{"lock", "restoring/kmsgate.db", "restoring/kmsgate.yaml"}, true},
		"killed meanwhile":       {[]string{"lock", "restoring/kmsgate.db", "ca.pem", "softhsm/pin", "kmsgate.yaml.backup", "audit.log"}, true},
		"somebody's":             {[]string{"kmsgate.db", "ca.pem"}, false},
		"an instance":            {[]string{"restoring/x", "kmsgate.yaml", "kmsgate.db"}, false},
		"something else with it": {[]string{"restoring/x", "precious"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := restoration{RestoreOptions: RestoreOptions{Dir: t.TempDir()}}
			for _, file := range tc.there {
				path := filepath.Join(r.Dir, file)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("x"), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			leave, err := r.enter()
			if (err == nil) != tc.empty {
				t.Fatalf("enter: %v", err)
			}
			left, err := os.ReadDir(r.Dir)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, e := range left {
				names = append(names, e.Name())
			}
			if !tc.empty {
				for _, file := range tc.there {
					if _, err := os.Stat(filepath.Join(r.Dir, file)); err != nil {
						t.Errorf("something of another's is gone: %v", err)
					}
				}
				return
			}
			if want := []string{"lock"}; !slices.Equal(names, want) && !slices.Equal(names, []string{"audit.log", "lock"}) {
				t.Errorf("there is %v, want nothing of the one before", names)
			}
			if err := leave(nil); err != nil {
				t.Error(err)
			}
		})
	}
}
