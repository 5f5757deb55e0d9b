package target_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/hardware"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/hardware/hardwaretest"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/adminclient"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/internal/ownership"
	"github.com/kmsgate/kmsgate/internal/serve"
	"github.com/kmsgate/kmsgate/internal/unixsocket/unixsockettest"
)

// initialized makes an appliance in a directory as `kmsgate dev` makes it, and returns the
// directory and an open appliance.
func initialized(t *testing.T) (dir string, a *appliance.Appliance) {
	t.Helper()
	t.Setenv(target.SocketVariable, "")
	path, a := hardwaretest.Open(t)
	t.Cleanup(func() { closeNow(t, a) })
	return filepath.Dir(path), a
}

func closeNow(t *testing.T, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func dial(t *testing.T, where target.Target) target.Caller {
	t.Helper()
	c, err := where.Dial(t.Context(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// createUser does an operation through a caller, and has it refused the second time, by
// the API's own error.
func createUser(t *testing.T, c target.Caller, name string) {
	t.Helper()
	parameters := map[string]string{"UserName": name}
	if err := c.Call(t.Context(), "CreateUser", parameters, nil); err != nil {
		t.Error(err)
	}
	if err := c.Call(t.Context(), "CreateUser", parameters, nil); !errors.Is(err, kms.ErrUserExists) {
		t.Errorf("again: %v", err)
	}
}

// TestDial reaches one appliance in every way: while it is stopped by opening it, and
// while it runs through its socket, by the same names.
func TestDial(t *testing.T) {
	dir, a := initialized(t)
	path := filepath.Join(dir, config.FileName)
	if _, err := (target.Target{Dir: dir}).Dial(t.Context(), io.Discard); err == nil || !strings.Contains(err.Error(), "another kmsgate process has the instance open") {
		t.Errorf("one that is open elsewhere and has no socket: %v", err)
	}
	closeNow(t, a)
	for n, where := range []target.Target{{Dir: dir}, {Config: path}} {
		c := dial(t, where)
		createUser(t, c, "stopped"+strconv.Itoa(n))
		var b bytes.Buffer
		if err := c.Stream(t.Context(), "CreateBackup", map[string]string{"Recipients.1": "age1xq33d62dfm0c6ypxy7cwtepe5k8kx2x3ya7nx3uzueka39nq6fzscxus4z"}, &b); err != nil || !strings.HasPrefix(b.String(), "age-encryption.org/v1") {
			t.Errorf("%+v: %v", where, err)
		}
		closeNow(t, c)
	}

	l, err := serve.Listen(dir, []string{"127.0.0.1:0"}, "")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	running, err := hardware.Open(t.Context(), a.Config, appliance.Options{Logger: config.Log{}.Quiet(t.Output())})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.ListenAdmin(running); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- l.Serve(ctx, running, nil) }()
	t.Setenv(target.SocketVariable, a.Config.Admin.Socket)
	for n, where := range []target.Target{{Dir: dir}, {Config: path}, {Socket: a.Config.Admin.Socket}, {}} {
		c := dial(t, where)
		createUser(t, c, "running"+strconv.Itoa(n))
		closeNow(t, c)
	}
	expectOtherInstance(t, dir)
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	closeNow(t, running)
}

// expectOtherInstance has a configuration name the socket of the gateway in dir, and another
// instance. The gateway there carries nothing out.
func expectOtherInstance(t *testing.T, dir string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, config.FileName))
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other.yaml")
	if err := os.WriteFile(other, bytes.Replace(text, []byte("kst-test"), []byte("kst-other"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	c := dial(t, target.Target{Config: other})
	defer closeNow(t, c)
	for range 2 { // it would be there the second time
		if err := c.Call(t.Context(), "CreateUser", map[string]string{"UserName": "misled"}, nil); !errors.Is(err, adminclient.ErrUntrusted) ||
			!strings.Contains(err.Error(), `has the instance "kst-test", but the configuration has "kst-other"`) {
			t.Errorf("another instance than the configuration's: got %v", err)
		}
	}
}

// TestForeignSocket: another user listens at the socket of a stopped gateway, or the gateway runs as
// the owner of its directory.
func TestForeignSocket(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("only root can listen as another user")
		}
		t.Skip("only root can listen as another user")
	}
	const stranger, service = 65534, 54321
	dir, a := initialized(t)
	closeNow(t, a)
	socket := a.Config.Admin.Socket
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		t.Fatal(err)
	}
	l := unixsockettest.ListenAs(t, stranger, socket)
	for _, where := range []target.Target{{Dir: dir}, {Config: filepath.Join(dir, config.FileName)}, {Socket: socket}} {
		for name, dial := range map[string]func() (target.Caller, error){
			"Dial":        func() (target.Caller, error) { return where.Dial(t.Context(), t.Output()) },
			"DialRunning": where.DialRunning,
		} {
			if c, err := dial(); c != nil || !errors.Is(err, adminclient.ErrUntrusted) || !strings.Contains(err.Error(), "belongs to uid 65534") {
				t.Errorf("%s of %+v: got %v, %v, want adminclient.ErrUntrusted", name, where, c, err)
			}
		}
	}
	closeNow(t, l)

	// The service's directory, and a configuration of root's elsewhere.
	configuration := filepath.Join(t.TempDir(), config.FileName)
	text, err := os.ReadFile(filepath.Join(dir, config.FileName))
	err = errors.Join(err, os.WriteFile(configuration, fmt.Appendf(nil, "directory: %s\n%s", dir, text), 0o600),
		os.Remove(socket), os.Chown(dir, service, service), os.Chown(filepath.Dir(socket), service, service))
	if err != nil {
		t.Fatal(err)
	}
	unixsockettest.ListenAs(t, service, socket)
	closeNow(t, dial(t, target.Target{Config: configuration}))
	if c, err := (target.Target{Socket: socket}).DialRunning(); !errors.Is(err, adminclient.ErrUntrusted) {
		t.Errorf("the service without a configuration: got %v, %v, want adminclient.ErrUntrusted", c, err)
	}
}

// TestWritableConfiguration: nothing is opened or called through a configuration that another user
// can write.
func TestWritableConfiguration(t *testing.T) {
	dir, a := initialized(t)
	closeNow(t, a)
	path := filepath.Join(dir, config.FileName)
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	where := target.Target{Dir: dir}
	for name, use := range map[string]func() error{
		"Dial":          func() error { _, err := where.Dial(t.Context(), t.Output()); return err },
		"DialRunning":   func() error { _, err := where.DialRunning(); return err },
		"Configuration": func() error { _, err := where.Configuration(); return err },
		"AuditFiles":    func() error { _, _, err := where.AuditFiles(); return err },
	} {
		var other *ownership.Error
		if err := use(); !errors.As(err, &other) || other.Path != path {
			t.Errorf("%s: got %v, want that others can write %q", name, err, path)
		}
	}
}

// TestDialRefuses tells what is missing.
func TestDialRefuses(t *testing.T) {
	dir, a := initialized(t)
	closeNow(t, a)
	gone := filepath.Join(dir, "gone")
	for name, c := range map[string]struct {
		where target.Target
		want  string
	}{
		"nothing":          {target.Target{}, "which gateway?"},
		"no socket":        {target.Target{Socket: gone}, "no gateway answers at the admin socket " + gone},
		"no configuration": {target.Target{Config: gone}, gone},
		"no directory":     {target.Target{Dir: gone}, filepath.Join(gone, config.FileName)},
	} {
		if caller, err := c.where.Dial(t.Context(), io.Discard); err == nil || caller != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v", name, caller, err)
		}
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	closeNow(t, dial(t, target.Target{Socket: l.Addr().String()}))
}

// TestConfiguration: only a target with a configuration has audit files.
func TestConfiguration(t *testing.T) {
	dir, a := initialized(t)
	for _, where := range []target.Target{{Dir: dir}, {Config: filepath.Join(dir, config.FileName)}} {
		c, err := where.Configuration()
		log, key, auditErr := where.AuditFiles()
		if err := errors.Join(err, auditErr); err != nil || c.Directory != dir || log != a.Config.Audit.File || key != a.Config.AuditPublicKeyFile() {
			t.Errorf("%+v: %v, %s, %s", where, err, log, key)
		}
	}
	c, err := target.Target{Socket: "/x"}.Configuration()
	log, _, auditErr := target.Target{}.AuditFiles()
	if err := errors.Join(err, auditErr); err != nil || c != nil || log != "" {
		t.Errorf("a socket: %v, %v, %q", err, c, log)
	}
}

// TestLists goes through all pages.
func TestLists(t *testing.T) {
	dir, a := initialized(t)
	for n := range 101 {
		if err := a.Server.Call(t.Context(), "CreateNetworkRule", map[string]string{"Name": "r" + strconv.Itoa(n), "Type": "Private", "SourcePrivateIp": `["::1"]`}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, spec := range []string{"EC_P256", "EC_SM2"} {
		if err := a.Server.Call(t.Context(), "CreateKey", map[string]string{"KeySpec": spec}, nil); err != nil {
			t.Fatal(err)
		}
	}
	closeNow(t, a)
	c := dial(t, target.Target{Dir: dir})
	defer closeNow(t, c)
	rules, err := target.NetworkRules.All(t.Context(), c, nil)
	if err != nil || len(rules) != 101 {
		t.Errorf("there are %d rules, %v", len(rules), err)
	}
	if none, err := target.Aliases.All(t.Context(), c, nil); err != nil || len(none) != 0 {
		t.Errorf("the aliases are %v, %v", none, err)
	}
	versions, err := target.EveryKeyVersion(t.Context(), c)
	if err != nil || len(versions) != 2 {
		t.Fatalf("the versions are %v, %v", versions, err)
	}
	for _, v := range versions {
		if tested, err := target.TestKeyVersion(t.Context(), c, v, "2"); err != nil || tested.Signatures != 2 || tested.KeyId != v.KeyId {
			t.Errorf("TestKeyVersion: %+v, %v", tested, err)
		}
	}
	if _, err := target.AliasesOfKey.All(t.Context(), c, map[string]string{"KeyId": "none"}); !errors.Is(err, kms.ErrKeyNotFound) {
		t.Errorf("aliases of a missing key: got %v", err)
	}
}
