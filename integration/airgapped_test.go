package integration

import (
	"cmp"
	"debug/elf"
	"encoding/json"
	"errors"
	goversion "go/version"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
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
// the modules of this machine. The program must be hardened.
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
	build := exec.Command("make", "bin/kmsgate")
	build.Dir = filepath.Join(dir, "kmsgate")
	built := filepath.Join(build.Dir, "bin", "kmsgate")
	build.Env = append(os.Environ(), "GOPROXY=off", "GOFLAGS=", "GOMODCACHE="+t.TempDir(), "GOTOOLCHAIN=local")
	withoutNetwork(t, build)
	if out, err := exec.Command(built, "version").Output(); err != nil || !strings.HasPrefix(string(out), "kmsgate ") {
		t.Errorf("the program that was built: got %q, %v", out, err)
	}
	checkHardened(t, built)
}

// TestToolchain checks that all modules are built with one Go, which can be later than the earliest that they
// permit: builds then have the fixes of vulnerabilities since.
func TestToolchain(t *testing.T) {
	var first string
	for _, path := range []string{"../go.mod", "go.mod", "../examples/go/go.mod"} {
		text, err := exec.Command("go", "mod", "edit", "-json", path).Output()
		var module struct{ Go, Toolchain string }
		if err := errors.Join(err, json.Unmarshal(text, &module)); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		first = cmp.Or(first, module.Toolchain)
		if module.Toolchain == "" || module.Toolchain != first || goversion.Compare(module.Toolchain, "go"+module.Go) < 0 {
			t.Errorf("%s: got toolchain %q, want that of ../go.mod, %q, and at least go%s", path, module.Toolchain, first, module.Go)
		}
	}
}

// checkHardened checks that a program is loaded at a random address, and that no pointer in its
// linkage tables can be changed once it runs (full RELRO).
func checkHardened(t *testing.T, program string) {
	t.Helper()
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Type != elf.ET_DYN {
		t.Errorf("the program is an %v, want %v: a position-independent one", f.Type, elf.ET_DYN)
	}
	if !slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_GNU_RELRO }) {
		t.Errorf("the program has no segment %v", elf.PT_GNU_RELRO)
	}
	bound := false // when it is loaded, instead of when it calls a function
	for tag, set := range map[elf.DynTag]uint64{
		elf.DT_BIND_NOW: 0, elf.DT_FLAGS: uint64(elf.DF_BIND_NOW), elf.DT_FLAGS_1: uint64(elf.DF_1_NOW),
	} {
		values, err := f.DynValue(tag)
		if err != nil {
			t.Fatal(err)
		}
		bound = bound || slices.ContainsFunc(values, func(v uint64) bool { return v&set == set })
	}
	if !bound {
		t.Errorf("the program has none of %v, %v and %v", elf.DT_BIND_NOW, elf.DF_BIND_NOW, elf.DF_1_NOW)
	}
}
