package integration

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/gateway/adminclient"
	ours "github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/integration/devgateway"
	"github.com/kmsgate/kmsgate/softhsm"
)

// A logged process is one whose log a test reads.
type logged struct {
	cmd  *exec.Cmd
	path string // of the log
}

// startLogged starts a command, with its standard error in a file. It kills the process at the end of
// the test.
func startLogged(t *testing.T, cmd *exec.Cmd) *logged {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &logged{cmd, log.Name()}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have exited already
		if t.Failed() {
			t.Logf("the log:\n%s", p.log(t))
		}
	})
	return p
}

func (p *logged) log(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(p.path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// waitForLog waits until the log matches a regular expression.
func (p *logged) waitForLog(t *testing.T, expression string) {
	t.Helper()
	re := regexp.MustCompile(expression)
	waitFor(t, expression+" in the log", func() bool { return re.MatchString(p.log(t)) })
}

func (p *logged) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// waitForStatus waits until the process exits, and returns its exit status. The status is -1 if a
// signal ended the process.
func (p *logged) waitForStatus(t *testing.T) int {
	t.Helper()
	timer := time.AfterFunc(time.Minute, func() { _ = p.cmd.Process.Kill() })
	_ = p.cmd.Wait() // the status says it
	if !timer.Stop() {
		t.Error("the gateway has not ended within a minute")
	}
	return p.cmd.ProcessState.ExitCode()
}

// TestReload changes the configuration of `kmsgate serve` and sends SIGHUP. The log must say what
// was started, what was reloaded, and what ended it.
func TestReload(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "kmsgate.yaml")
	configure := func(more string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(smallConfiguration+"metrics: {listen: \"127.0.0.1:0\"}\n"+more), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	configure("")
	if out, err := kmsgate(t, "init", "--yes", "--config", file); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.Command(binary, "serve", "--config", file)
	cmd.Env = devgateway.Environment()
	p := startLogged(t, cmd)
	p.waitForLog(t, "msg=serving")
	for _, want := range []string{
		`instance=kst-small`, `token=".*softhsm`, `listeners="?\[127\.0\.0\.1:\d+\]`, `admin=\S+admin\.sock`, `metrics=127\.0\.0\.1:\d+`,
		`audit_line=\d+`, `certificate="issued by the gateway's CA"`, `certificate_expires=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`,
		`module=\S+\.so`, `version=\S+`, `go=go\S+`,
	} {
		if !regexp.MustCompile(`(?m)msg=serving.* ` + want).MatchString(p.log(t)) {
			t.Errorf("the line about the start lacks %s", want)
		}
	}
	admin := adminclient.Dial(filepath.Join(dir, "admin", "admin.sock"))
	defer admin.Close()
	quota := func(want float64) {
		t.Helper()
		var list ours.ListQuotasResponse
		if err := admin.Call(t.Context(), "ListQuotas", nil, &list); err != nil {
			t.Fatal(err)
		}
		isKeyRead := func(q ours.QuotaItem) bool { return q.QuotaName == "key_read" }
		i := slices.IndexFunc(list.Quotas.Quota, isKeyRead)
		if i < 0 || list.Quotas.Quota[i].QueriesPerSecond != want {
			t.Errorf("got the quotas %+v, want key_read with %g", list.Quotas.Quota, want)
		}
	}
	quota(50)
	configure("quotas: {shared: {key_read: 7}}\nlimits: {keys: 9}\nlog: {level: debug}\n")
	p.signal(t, unix.SIGHUP)
	p.waitForLog(t, `msg=reloaded changed="\[quotas\.shared\.key_read log\.level\]"`)
	p.waitForLog(t, `need a restart.*fields=\[limits\.keys\]`)
	quota(7)
	p.waitForLog(t, "level=DEBUG msg=request ")
	configure("quotas: {shared: {key_read: 0, key_wrote: 3}}\n")
	p.signal(t, unix.SIGHUP)
	p.waitForLog(t, `level=ERROR msg="not reloaded: .*quotas\.shared\.key_read: .*quotas\.shared\.key_wrote: `)
	quota(7)
	p.signal(t, unix.SIGTERM)
	if status := p.waitForStatus(t); status != 0 {
		t.Errorf("after SIGTERM: got exit status %d, want 0", status)
	}
	p.waitForLog(t, `msg=stopping signal=SIGTERM\n(.*\n)*.*msg=stopped signal=SIGTERM uptime=\d+`)
}

// TestHangup sends SIGHUP to `kmsgate dev`, as tools that rotate logs do. It must continue. Its log
// must say what it serves, and what ended it.
func TestHangup(t *testing.T) {
	t.Parallel()
	g := start(t, t.TempDir()+"/gateway", "--verbose")
	for range 3 {
		if err := unix.Kill(g.Pid(), unix.SIGHUP); err != nil {
			t.Fatal(err)
		}
		signAll(t, g)
	}
	stopInTime(t, g)
	for _, want := range []string{`msg=serving instance=kst-.* module=\S+\.so version=\S+ go=go`, `msg=stopped signal=SIGTERM uptime=\d`} {
		if !regexp.MustCompile(want).MatchString(g.Output()) {
			t.Errorf("the log lacks %s", want)
		}
	}
}

// openTerminal returns both ends of a new terminal.
func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}

// TestTerminalCloses runs `kmsgate dev` in a terminal. A SIGHUP must not end it while the terminal
// exists. When the terminal closes, the gateway must end and remove its temporary directory.
func TestTerminalCloses(t *testing.T) {
	t.Parallel()
	// Under nohup, the gateway would inherit an ignored SIGHUP.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, unix.SIGHUP)
	defer signal.Stop(hangups)
	for _, command := range [][]string{nil, {"sh", "-c", `trap "" HUP; echo begun > "$BEGUN"; while :; do sleep 0.05; done`}} {
		temporary := t.TempDir()
		master, slave := openTerminal(t)
		args := []string{"dev", "--listen", "127.0.0.1:0"}
		begun := temporary + "/kmsgate-dev-*/env"
		if command != nil {
			args = append(append(args, "--"), command...)
			begun = temporary + "/begun"
		}
		cmd := exec.Command(binary, args...)
		cmd.Env = append(devgateway.Environment(), "TMPDIR="+temporary, "BEGUN="+temporary+"/begun")
		cmd.Stdin = slave
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true} // the terminal of descriptor 0
		p := startLogged(t, cmd)
		if err := slave.Close(); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the gateway to serve", func() bool {
			found, err := filepath.Glob(begun)
			return err == nil && len(found) == 1
		})
		p.signal(t, unix.SIGHUP)
		found, err := filepath.Glob(temporary + "/kmsgate-dev-*")
		if err != nil || len(found) != 1 {
			t.Fatalf("found the directories %v, %v, want one", found, err)
		}
		env, err := devgateway.ReadEnv(found[0] + "/env")
		if err != nil {
			t.Fatal(err)
		}
		if status, body := observe(t, env, "/ready"); status != 200 {
			t.Errorf("/ready after SIGHUP: got %d %s, want 200", status, body)
		}
		if err := master.Close(); err != nil {
			t.Fatal(err)
		}
		want := 0
		if command != nil {
			want = 128 + int(unix.SIGTERM) // the command's
		}
		if status := p.waitForStatus(t); status != want {
			t.Errorf("after the terminal has closed: got exit status %d, want %d", status, want)
		}
		if _, err := os.Stat(found[0]); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the temporary directory: got %v, want fs.ErrNotExist", err)
		}
	}
}

// thief is a PKCS#11 module that takes the handlers of signals, and otherwise is REAL.
const thief = `
#define _GNU_SOURCE
#define CK_PTR *
#define NULL_PTR 0
#define CK_DECLARE_FUNCTION(type, name) type name
#define CK_DECLARE_FUNCTION_POINTER(type, name) type (*name)
#define CK_CALLBACK_FUNCTION(type, name) type (*name)
#include <dlfcn.h>
#include <signal.h>
#include "pkcs11.h"

static CK_FUNCTION_LIST *real, mine;

static void drop(int number) { (void)number; }

static CK_RV initialize(CK_VOID_PTR args) {
	struct sigaction action = {.sa_handler = drop, .sa_flags = SA_ONSTACK | SA_RESTART};
	sigaction(SIGTERM, &action, 0);
	sigaction(SIGINT, &action, 0);
	return real->C_Initialize(args);
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR list) {
	void *module = dlopen(REAL, RTLD_NOW | RTLD_LOCAL);
	CK_RV (*get)(CK_FUNCTION_LIST_PTR_PTR) = module ? (CK_RV (*)(CK_FUNCTION_LIST_PTR_PTR))dlsym(module, "C_GetFunctionList") : 0;
	if (!get || get(&real)) return CKR_GENERAL_ERROR;
	mine = *real;
	mine.C_Initialize = initialize;
	mine.C_GetFunctionList = C_GetFunctionList;
	*list = &mine;
	return CKR_OK;
}
`

// TestModuleTakesSignals runs a gateway on a module that takes the handlers of SIGTERM and SIGINT.
// The gateway must report that once for each, and stop on SIGTERM.
func TestModuleTakesSignals(t *testing.T) {
	softHSM, err := softhsm.Module()
	if err != nil {
		t.Fatal(err)
	}
	list := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/miekg/pkcs11")
	list.Dir = ".."
	headers, err := list.Output()
	if err != nil {
		t.Fatalf("finding the headers of PKCS#11: %v", err)
	}
	module := filepath.Join(t.TempDir(), "thief.so")
	cc := exec.Command("cc", "-shared", "-fPIC", "-I"+strings.TrimSpace(string(headers)), fmt.Sprintf("-DREAL=%q", softHSM),
		"-o", module, "-x", "c", "-", "-ldl")
	cc.Stdin = strings.NewReader(thief)
	if out, err := cc.CombinedOutput(); err != nil {
		t.Fatalf("compiling a module: %v\n%s", err, out)
	}
	t.Setenv("SOFTHSM2_MODULE", module)
	g := start(t, t.TempDir()+"/gateway")
	for _, name := range []string{"SIGTERM", "SIGINT"} {
		report := "had replaced the handler of a signal; the gateway has restored it\" signal=" + name
		waitFor(t, "a report about "+name, func() bool { return strings.Contains(g.Output(), report) })
		if n := strings.Count(g.Output(), report); n != 1 {
			t.Errorf("got %d reports about %s, want 1", n, name)
		}
	}
	signAll(t, g)
	stopInTime(t, g)
}
