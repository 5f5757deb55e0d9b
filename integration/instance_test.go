package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/integration/devgateway"
	"github.com/kmsgate/kmsgate/integration/syscalls"
)

// An instance is one that `kmsgate init` creates on a SoftHSM token and `kmsgate serve` serves, for
// tests that stop, starve and break gateways. It has the same address after each start.
type instance struct {
	dir         string
	program     string            // the path of kmsgate
	environment []string          // more variables of its processes
	env         map[string]string // what programs and commands need, as in devgateway.Gateway
	wrapper     []string          // what the next start's command line begins with
	log         string            // the file with what its processes have written to standard error
	stderr      *os.File          // of the next start instead of that file; nil for the file
	watch       *syscalls.Watch   // of the next start; nil if its calls are not intercepted

	cmd    *exec.Cmd
	exited chan struct{} // closed when the process has ended
	result error         // what it ended with; set before exited is closed
}

// instanceConfiguration logs every request, rotates the audit log often, and writes a checkpoint
// every second.
const instanceConfiguration = `instance: {id: kst-unattended, region: cn-hangzhou, account: "1000000000000001"}
token: {softhsm: softhsm}
listeners: [{address: "%s", idle_timeout: 2m}]
audit: {checkpoint_every: 1s, rotate_size: 64KiB, warn_free: 0}
limits: {version_interval: 0s}
quotas: {dedicated: {other: 0}}
log: {level: debug}
`

// newInstance creates an instance, which the test must start. Its gateway is killed when the test
// ends.
func newInstance(t *testing.T, program string, environment ...string) *instance {
	t.Helper()
	parent, err := os.MkdirTemp("", "instance") // a short name, because the tests' own programs connect to the socket by its path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(parent) })
	if parent, err = filepath.EvalSymlinks(parent); err != nil {
		t.Fatal(err)
	}
	return newInstanceIn(t, parent, program, environment...)
}

// newInstanceIn is like newInstance, and creates the instance in a directory.
func newInstanceIn(t *testing.T, dir, program string, environment ...string) *instance {
	t.Helper()
	g := &instance{program: program, environment: environment, log: filepath.Join(t.TempDir(), "stderr")}
	address := freeAddress(t)
	g.move(dir)
	g.env["KMSGATE_ENDPOINT"], g.env["KMSGATE_INSTANCE_ID"], g.env["KMSGATE_REGION_ID"] = address, "kst-unattended", "cn-hangzhou"
	if err := os.WriteFile(g.configuration(), fmt.Appendf(nil, instanceConfiguration, address), 0o600); err != nil {
		t.Fatal(err)
	}
	initialize := exec.Command(program, "init", "--config", g.configuration(), "--yes")
	initialize.Env = append(devgateway.Environment(), environment...)
	printed, err := initialize.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		t.Fatalf("kmsgate init: %v\n%s", err, exit.Stderr)
	}
	var access struct{ AccessKeyId, AccessKeySecret string }
	if err := errors.Join(err, json.Unmarshal(printed, &access)); err != nil {
		t.Fatal(err)
	}
	g.env["KMSGATE_ACCESS_KEY_ID"], g.env["KMSGATE_ACCESS_KEY_SECRET"] = access.AccessKeyId, access.AccessKeySecret
	t.Cleanup(func() {
		g.kill()
		if t.Failed() {
			t.Logf("the end of the gateway's log:\n%s", g.logged())
		}
	})
	return g
}

// instances counts instances, to give each a different IP address, for the reason that
// devgateway.Start does.
var instances atomic.Int32

// freeAddress returns an address that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	n := instances.Add(1)
	l, err := net.Listen("tcp", fmt.Sprintf("127.1.%d.%d:0", n/250, n%250+2))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// move makes dir the instance's directory, which must be a copy of the old one. The gateway must be
// stopped.
func (g *instance) move(dir string) {
	g.dir = dir
	if g.env == nil {
		g.env = make(map[string]string)
	}
	g.env["KMSGATE_CA_FILE"] = filepath.Join(dir, "ca.pem")
	g.env["KMSGATE_ADMIN_SOCKET"] = filepath.Join(dir, "admin", "admin.sock")
	g.env["KMSGATE_AUDIT_FILE"] = filepath.Join(dir, "audit.log")
	g.env["KMSGATE_AUDIT_PUBLIC_KEY"] = filepath.Join(dir, "audit-public-key.pem")
}

func (g *instance) configuration() string { return filepath.Join(g.dir, "kmsgate.yaml") }

// start starts the gateway and waits until it is ready.
func (g *instance) start(t *testing.T) {
	t.Helper()
	args := slices.Concat(g.wrapper, []string{g.program, "serve", "--config", g.configuration()})
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(devgateway.Environment(), g.environment...)
	stderr := g.stderr
	if stderr == nil {
		var err error
		if stderr, err = os.OpenFile(g.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
			t.Fatal(err)
		}
		defer stderr.Close()
	}
	cmd.Stderr = stderr
	run := cmd.Start
	if g.watch != nil {
		run = func() error { return g.watch.Start(cmd) }
	}
	if err := run(); err != nil {
		t.Fatal(err)
	}
	g.cmd, g.exited = cmd, make(chan struct{})
	go func(exited chan struct{}) {
		g.result = cmd.Wait()
		close(exited)
	}(g.exited)
	waitLong(t, "the gateway to be ready", func() bool {
		if !g.runs() {
			t.Fatalf("kmsgate serve exited before it was ready: %v", g.result)
		}
		status, _, err := ask(g.env, "/ready")
		return err == nil && status == 200
	})
}

// runs reports whether the process that start has started still runs.
func (g *instance) runs() bool {
	if g.exited == nil {
		return false
	}
	select {
	case <-g.exited:
		return false
	default:
		return true
	}
}

// stop sends SIGTERM. The gateway must exit with status 0 within a minute.
func (g *instance) stop(t *testing.T) {
	t.Helper()
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("stopping the gateway: %v", err)
	}
	select {
	case <-g.exited:
	case <-time.After(time.Minute):
		t.Error("the gateway has not exited within a minute of SIGTERM")
		g.kill()
	}
	if g.result != nil {
		t.Errorf("kmsgate serve: %v", g.result)
	}
}

// kill kills the gateway, if it runs.
func (g *instance) kill() {
	if g.runs() {
		_ = g.cmd.Process.Kill() // it may have exited
		<-g.exited
	}
}

// signal sends a signal to the process.
func (g *instance) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := g.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// metric returns the value of a metric without labels.
func (g *instance) metric(t *testing.T, name string) float64 {
	t.Helper()
	_, metrics, err := ask(g.env, "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(metrics) {
		if text, ok := strings.CutPrefix(line, name+" "); ok {
			value, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			if err != nil {
				t.Fatal(err)
			}
			return value
		}
	}
	t.Fatalf("the gateway has no metric %s", name)
	return 0
}

// logged returns the last lines that the gateway has logged, without those about requests.
func (g *instance) logged() string {
	text, err := os.ReadFile(g.log)
	if err != nil {
		return err.Error()
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if !strings.Contains(line, "level=DEBUG") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-50):], "")
}

// longWait limits the waits of tests in which a gateway recovers from a fault on a busy machine.
const longWait = time.Minute

// waitLong is like waitFor with that limit. It asks less often, because the question costs the
// gateway something.
func waitLong(t *testing.T, condition string, holds func() bool) {
	t.Helper()
	poll := time.NewTicker(25 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(longWait); !holds(); <-poll.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", longWait, condition)
		}
	}
}
