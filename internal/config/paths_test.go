package config

import (
	"strings"
	"testing"
)

// TestSocketIn tests that the socket's path always fits into the kernel's address, and differs
// for each directory.
func TestSocketIn(t *testing.T) {
	t.Setenv("TMPDIR", "/tmp")
	long := "/" + strings.Repeat("d", 200)
	for dir, want := range map[string]string{
		"/var/lib/kmsgate":                "/var/lib/kmsgate/admin/admin.sock",
		"/" + strings.Repeat("d", 107-18): "/" + strings.Repeat("d", 107-18) + "/admin/admin.sock",
		"/" + strings.Repeat("d", 107-17): "/tmp/kmsgate-",
		long:                              "/tmp/kmsgate-",
	} {
		got := SocketIn(dir)
		if len(got) > 107 || !strings.HasPrefix(got, want) {
			t.Errorf("SocketIn(%q) = %q, want at most 107 bytes that start with %q", dir, got, want)
		}
	}
	if SocketIn(long) == SocketIn(long+"x") {
		t.Error("SocketIn: got the same path for two directories")
	}
}
