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
	"strings"
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
	info, err := os.Lstat(path)
	if err != nil {
		t.Error(err)
		return
	}
	if info.Mode() != want {
		t.Errorf("%s: got mode %v, want %v", filepath.Base(path), info.Mode(), want)
	}
}

// TestListenUnix checks that only the owner can use the socket and its directory, and that a
// socket left by an earlier process is replaced.
func TestListenUnix(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "run", "s")
	for range 2 {
		l := listenUnix(t, path)
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		checkMode(t, filepath.Dir(path), fs.ModeDir|0o700)
		checkMode(t, path, fs.ModeSocket|0o600)
		l.Close() // leaves the file in place, as a kill does
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

// TestListenUnixRefuses checks that ListenUnix refuses a directory that others can enter or
// change, and a file that is not a socket, and leaves them unchanged.
func TestListenUnixRefuses(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(dir string) error{
		"others can enter": func(dir string) error { return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o711)) },
		"group can enter":  func(dir string) error { return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o710)) },
		"symbolic link": func(dir string) error {
			return errors.Join(os.Mkdir(dir+".real", 0o700), os.Symlink(dir+".real", dir))
		},
		"file instead of the directory": func(dir string) error { return os.WriteFile(dir, nil, 0o600) },
		"file instead of the socket": func(dir string) error {
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
			t.Errorf("%s: got a listener, want an error", name)
		}
		if after, err := os.Lstat(dir); err != nil || after.Mode() != before.Mode() {
			t.Errorf("%s: got %v, %v, want the mode %v unchanged", name, after, err, before.Mode())
		}
	}
	missing := filepath.Join(t.TempDir(), "no", "run", "s")
	if _, err := front.ListenUnix(missing); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("directory without a parent: got error %v, want %v", err, fs.ErrNotExist)
	}
}

// TestPeer checks that Peer returns the uid at the other end of a unix socket, and of no
// other connection.
func TestPeer(t *testing.T) {
	t.Parallel()
	type peer struct {
		front.PeerProcess
		ok bool
	}
	peers := make(chan peer, 1)
	handler := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		process, ok := front.Peer(r.Context())
		peers <- peer{process, ok}
	})
	get := func(l net.Listener) peer {
		t.Helper()
		server := httptest.NewUnstartedServer(handler)
		server.Listener.Close()
		server.Listener, server.Config.ConnContext = l, front.WithPeer
		server.Start()
		defer server.Close()
		dial := func(context.Context, string, string) (net.Conn, error) {
			return net.Dial(l.Addr().Network(), l.Addr().String())
		}
		client := &http.Client{Transport: &http.Transport{DialContext: dial}}
		defer client.CloseIdleConnections()
		resp, err := client.Get("http://kms.example/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return <-peers
	}
	if p := get(listenUnix(t, filepath.Join(t.TempDir(), "run", "s"))); !p.ok || int(p.Uid) != os.Getuid() || p.LoginUid != front.LoginUid(os.Getpid()) {
		t.Errorf("unix socket: got %+v, want uid %d and this process's login uid", p, os.Getuid())
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if p := get(tcp); p.ok {
		t.Errorf("TCP: got %+v, want no peer", p)
	}
	if p, ok := front.Peer(t.Context()); ok {
		t.Errorf("without a connection: got %+v, want no peer", p)
	}
}

// TestLoginUid compares with the kernel's file. No process has the last pid.
func TestLoginUid(t *testing.T) {
	text, err := os.ReadFile("/proc/self/loginuid")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.ReplaceAll(string(text), "4294967295", "") // "unset"
	if got := front.LoginUid(os.Getpid()); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := front.LoginUid(1 << 30); got != "" {
		t.Errorf("of a process that does not exist: got %q, want none", got)
	}
}
