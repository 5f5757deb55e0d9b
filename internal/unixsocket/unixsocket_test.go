package unixsocket_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/internal/unixsocket"
)

// TestLength listens at paths of several lengths and connects to them. The socket is where the path
// says, also if the kernel's address has no room for that, and nowhere else.
func TestLength(t *testing.T) {
	for _, name := range []string{"d", strings.Repeat("d", 120), strings.Repeat("d", 240)} {
		dir := filepath.Join(t.TempDir(), name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "admin.sock")
		if _, err := unixsocket.Dial(t.Context(), path); !isDial(err) || !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
			t.Errorf("Dial before Listen: got %v, want that %q does not exist", err, path)
		}
		for range 2 {
			exchange(t, path)
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
				t.Errorf("after Close, the directory has %v, %v, want nothing", entries, err)
			}
		}
	}
}

// exchange listens at path, connects, and wants this process at both ends.
func exchange(t *testing.T, path string) {
	t.Helper()
	l, err := unixsocket.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode().Type() != fs.ModeSocket || l.Addr().String() != path {
		t.Errorf("got %v, %v at %q, want a socket at %q", info, err, l.Addr(), path)
	}
	if _, err := unixsocket.Listen(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("Listen a second time: got %v, want an error that names %q", err, path)
	}
	client, err := unixsocket.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	for _, conn := range []net.Conn{client, server} {
		if uid, pid, err := unixsocket.Peer(conn); err != nil || int(uid) != os.Getuid() || pid != os.Getpid() {
			t.Errorf("Peer: got uid %d and pid %d, %v, want this process", uid, pid, err)
		}
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err == nil {
		t.Error("Close a second time: got no error")
	}
	if _, err := unixsocket.Dial(t.Context(), path); !isDial(err) {
		t.Errorf("Dial after Close: got %v, want a *net.OpError of dial", err)
	}
}

func isDial(err error) bool {
	var failed *net.OpError
	return errors.As(err, &failed) && failed.Op == "dial"
}

// TestName tests that only the name of a socket is limited.
func TestName(t *testing.T) {
	long := "/" + strings.Repeat("d/", 1000)
	for path, want := range map[string]string{
		"/run/kmsgate/admin.sock":           "",
		"/" + strings.Repeat("n", 106):      "",
		long + "admin.sock":                 "",
		long + strings.Repeat("n", 83):      "at most 82",
		"/" + strings.Repeat("n", 107):      "at most 82",
		"/run/kmsgate/admin/" + long[:1001]: "",
	} {
		if err := unixsocket.CheckPath(path); (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("CheckPath(%q): got %v, want %q", path, err, want)
		}
	}
	if _, err := unixsocket.Listen(long + strings.Repeat("n", 83)); err == nil {
		t.Error("Listen with a long name: got no error")
	}
	if _, err := unixsocket.Dial(t.Context(), long+strings.Repeat("n", 83)); !isDial(err) {
		t.Errorf("Dial with a long name: got %v, want a *net.OpError of dial", err)
	}
}

// TestNoSocket tests that Peer refuses connections of other kinds.
func TestNoSocket(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, _, err := unixsocket.Peer(a); err == nil {
		t.Error("Peer of a pipe: got no error")
	}
}
