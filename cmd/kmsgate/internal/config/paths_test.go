package config

import (
	"strings"
	"testing"
)

// TestSocketIn: the socket's path always fits into the kernel's address, and is another
// one for each directory.
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
			t.Errorf("SocketIn(%s) = %s", dir, got)
		}
	}
	if SocketIn(long) == SocketIn(long+"x") {
		t.Error("the sockets of two directories are one")
	}
}
