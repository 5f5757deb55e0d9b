package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// shellBlocks matches the commands of a document that a reader runs one after the other.
var shellBlocks = regexp.MustCompile("(?s)\n```sh\n(.*?)\n```")

// withoutNetwork runs a command in a new network namespace, whose only device is a loopback that
// is down.
func withoutNetwork(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if uid := os.Getuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("without a network: %v (operation not permitted: this test needs the right to make network namespaces)\n%s", err, out)
	}
	return string(out)
}

// TestAirGapped runs every command of docs/air-gapped.md without a network, in the order of the
// page.
func TestAirGapped(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/air-gapped.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := shellBlocks.FindAllStringSubmatch(string(text), -1)
	if len(blocks) < 5 {
		t.Fatalf("docs/air-gapped.md has %d blocks of commands, want at least 5", len(blocks))
	}
	script := "set -eux\n" +
		// Nothing can be reached, not even this machine.
		`[ "$(awk 'NR > 2 { print $1 }' /proc/net/dev)" = lo: ]` + "\n" +
		`(exec 3<>/dev/tcp/127.0.0.1/1) 2>&1 | grep 'Network is unreachable'` + "\n"
	for _, block := range blocks {
		script += block[1] + "\n"
	}
	dir := t.TempDir()
	cmd := exec.Command("bash", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"), "SOFTHSM2_CONF=", "KMSGATE_ADMIN_SOCKET=")
	out := withoutNetwork(t, cmd)
	for _, want := range []string{"Verified OK", "app.tar: valid", "CMS Verification successful", "the log is whole", " for release  AsymmetricSign ", "proven: 2 lines signed", "CKA_NEVER_EXTRACTABLE    true", "the token protects every key"} {
		if !strings.Contains(out, want) {
			t.Errorf("the page's commands did not print %q:\n%s", want, out)
		}
	}
	export, err := os.ReadFile(filepath.Join(dir, "auditor", "signatures.csv"))
	if err != nil || strings.Count(string(export), ",release,") < 6 {
		t.Errorf("the exported signatures: got %v\n%s, want 6 on behalf of release", err, export)
	}
}

// TestVendored builds the program from the tarball of make vendor, without a network and without
// the modules of this machine.
func TestVendored(t *testing.T) {
	t.Parallel()
	clone := filepath.Join(t.TempDir(), "clone")
	run := func(dir, name string, args ...string) {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
	}
	run("..", "git", "clone", "-q", ".", clone)
	run(clone, "make", "vendor")
	dir := t.TempDir()
	run(dir, "tar", "xzf", filepath.Join(clone, "bin", "kmsgate-src.tar.gz"))
	build := exec.Command("go", "build", "-mod=vendor", "-o", "kmsgate-built", "./cmd/kmsgate")
	build.Dir = filepath.Join(dir, "kmsgate")
	build.Env = append(os.Environ(), "GOPROXY=off", "GOFLAGS=", "GOMODCACHE="+t.TempDir(), "GOTOOLCHAIN=local")
	withoutNetwork(t, build)
	if out, err := exec.Command(filepath.Join(build.Dir, "kmsgate-built"), "version").Output(); err != nil || !strings.HasPrefix(string(out), "kmsgate ") {
		t.Errorf("the program that was built: got %q, %v", out, err)
	}
}
