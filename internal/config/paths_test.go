package config

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestSocketIn tests that the socket is in the instance's directory, however long its path is: in a
// temporary directory, another user could create it first.
func TestSocketIn(t *testing.T) {
	for _, dir := range []string{"/var/lib/kmsgate", "/" + strings.Repeat("d", 90), "/" + strings.Repeat("d/", 200)} {
		path := SocketIn(dir)
		if want := filepath.Join(dir, "admin", "admin.sock"); path != want {
			t.Errorf("SocketIn(%q) = %q, want %q", dir, path, want)
		}
		if _, err := Parse([]byte(minimal+"admin: {socket: "+path+"}"), dir); err != nil {
			t.Errorf("a configuration with the socket %q: %v", path, err)
		}
	}
}
