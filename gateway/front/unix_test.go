package front_test

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/kmsgate/kmsgate/gateway/front"
)

func listenUnix(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := front.ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func checkMode(t *testing.T, path string, want fs.FileMode) {
	t.Helper()
	if info, err := os.Lstat(path); err != nil || info.Mode() != want {
		t.Errorf("%s: %v, %v, want %v", filepath.Base(path), info.Mode(), err, want)
	}
}

// TestListenUnix makes the socket and its directory for nobody else, and replaces a
// socket that was left.
func TestListenUnix(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "run", "s")
	for range 2 {
		l := listenUnix(t, path)
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		checkMode(t, filepath.Dir(path), fs.ModeDir|0o700)
		checkMode(t, path, fs.ModeSocket|0o600)
		l.Close() // as a kill does, it leaves the file
		checkMode(t, path, fs.ModeSocket|0o600)
	}
	l := listenUnix(t, path)
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if conn, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

// TestListenUnixRefuses a directory that somebody else could enter or change, and what
// is no socket, and leaves them as they are.
func TestListenUnixRefuses(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(dir string) error{
		"others can enter it": func(dir string) error { return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o711)) },
		"its group can enter": func(dir string) error { return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o710)) },
		"a link": func(dir string) error {
			return errors.Join(os.Mkdir(dir+".real", 0o700), os.Symlink(dir+".real", dir))
		},
		"no directory": func(dir string) error { return os.WriteFile(dir, nil, 0o600) },
		"another file in the place of the socket": func(dir string) error {
			return errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "s"), []byte("mine"), 0o600))
		},
	} {
		dir := filepath.Join(t.TempDir(), "run")
		if err := prepare(dir); err != nil {
			t.Fatal(err)
		}
		before, err := os.Lstat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if l, err := front.ListenUnix(filepath.Join(dir, "s")); err == nil {
			l.Close()
			t.Errorf("%s: there is a socket", name)
		}
		if after, err := os.Lstat(dir); err != nil || after.Mode() != before.Mode() {
			t.Errorf("%s: %v, %v", name, after, err)
		}
	}
	missing := filepath.Join(t.TempDir(), "no", "run", "s")
	if _, err := front.ListenUnix(missing); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in a directory whose parent is missing: %v", err)
	}
}

// TestPeer knows the uid at the other end of a unix socket, and of nothing else.
func TestPeer(t *testing.T) {
	t.Parallel()
	type peer struct {
		uid uint32
		ok  bool
	}
	peers := make(chan peer, 1)
	handler := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		uid, ok := front.Peer(r.Context())
		peers <- peer{uid, ok}
	})
	get := func(l net.Listener) peer {
		t.Helper()
		server := httptest.NewUnstartedServer(handler)
		server.Listener.Close()
		server.Listener, server.Config.ConnContext = l, front.WithPeer
		server.Start()
		defer server.Close()
		client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			return net.Dial(l.Addr().Network(), l.Addr().String())
		}}}
		defer client.CloseIdleConnections()
		resp, err := client.Get("http://kms.example/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return <-peers
	}
	if p := get(listenUnix(t, filepath.Join(t.TempDir(), "run", "s"))); !p.ok || int(p.uid) != os.Getuid() {
		t.Errorf("of a unix socket: %+v, want uid %d", p, os.Getuid())
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if p := get(tcp); p.ok {
		t.Errorf("of TCP: %+v", p)
	}
	if uid, ok := front.Peer(t.Context()); ok {
		t.Errorf("without a connection: %d", uid)
	}
}
