package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/hsm"
)

// build builds a program of this module.
func build(t *testing.T, name string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), name)
	if out, err := exec.Command("go", "build", "-race", "-o", path, "./"+name).CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", name, err, out)
	}
	return path
}

// TestFloor: the floor gives right answers to every operation of kmsgate bench, and to nobody without
// its access key.
func TestFloor(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "floor")
	floor := exec.Command(build(t, "floor"), "--dir", dir)
	var output strings.Builder
	floor.Stdout, floor.Stderr = &output, &output
	if err := floor.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = floor.Process.Signal(os.Interrupt)
		if err := floor.Wait(); err != nil {
			t.Errorf("the floor ended: %v\n%s", err, output.String())
		}
		if _, err := os.Stat(filepath.Join(dir, "env")); err == nil {
			t.Error("the file env is left after the end")
		}
	}()
	waitFor(t, "the file env", func() bool { _, err := os.Stat(filepath.Join(dir, "env")); return err == nil })
	bench := func(args ...string) (string, error) {
		out, err := exec.Command(binary, append([]string{"bench", "--time", "50ms", "--warm-up", "0s", "--callers", "2"}, args...)...).CombinedOutput()
		return string(out), err
	}
	out, err := bench("--dir", dir, "--operation", "sign", "--operation", "verify", "--operation", "publickey", "-o", "json")
	if want := 3 * (len(hsm.KeySpecs()) - 1); err != nil || strings.Count(out, `"Checked"`) != want || strings.Contains(out, `"Checked": 0`) {
		t.Errorf("kmsgate bench: got %v and\n%s\nwant %d measurements with checked answers", err, out, want)
	}
	env, err := os.ReadFile(filepath.Join(dir, "env"))
	if err != nil {
		t.Fatal(err)
	}
	forged := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(forged, []byte(strings.Replace(string(env), "KEY_SECRET=", "KEY_SECRET=x", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := bench("--dir", filepath.Dir(forged)); err == nil || !strings.Contains(out, "SignatureDoesNotMatch") {
		t.Errorf("with another secret: got %v and\n%s\nwant SignatureDoesNotMatch", err, out)
	}
}

// TestBench: the program behind make bench measures, and writes the page.
func TestBench(t *testing.T) {
	t.Parallel()
	page := filepath.Join(t.TempDir(), "performance.md")
	text, err := os.ReadFile("../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(page, text, 0o644); err != nil {
		t.Fatal(err)
	}
	disk, err := os.MkdirTemp("/var/tmp", "kmsgate-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(disk)
	program, floor := build(t, "bench"), build(t, "floor")
	run := func(args ...string) (string, error) {
		cmd := exec.Command(program, append([]string{"-kmsgate", binary, "-floor", floor, "-time", "50ms", "-warm-up", "0s", "-rounds", "1", "-dir", disk}, args...)...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run("-rows", "(sign EC_P256, (1|32)|publickey)", "-write", page); err != nil {
		t.Fatalf("got %v and\n%s", err, out)
	}
	written, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"<!-- tables: make bench -->\nMeasured on 20",
		"\n| sign EC_P256, 1 caller | ", "\n| publickey EC_P256, 32 callers | ", "\n| open loop, ", "\nWith 32 callers, a signature costs ",
	} {
		if !strings.Contains(string(written), want) {
			t.Errorf("the page lacks %q:\n%s", want, written)
		}
	}
	if left, err := os.ReadDir(disk); err != nil || len(left) > 0 {
		t.Errorf("left on the disk: %v, %v, want nothing", left, err)
	}
	if out, err := run("-rows", "no row"); err == nil || !strings.Contains(out, "the rows are") {
		t.Errorf("a pattern of no row: got %v and\n%s\nwant an error with the rows", err, out)
	}
}
