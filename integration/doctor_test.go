package integration

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/token"
	"github.com/kmsgate/kmsgate/integration/devgateway"
	"github.com/kmsgate/kmsgate/softhsm"
)

// TestDoctorDestroysStrays creates a key pair in the token that no record mentions. The doctor must
// report it, and with --repair destroy it and nothing else: all keys must sign as before. The test
// does so with a running gateway and with a stopped one.
func TestDoctorDestroysStrays(t *testing.T) {
	dir := t.TempDir() + "/gateway"
	g := start(t, dir)
	if err := g.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, running := range []bool{true, false} {
		id := plant(t, dir)
		if running {
			g = start(t, dir)
		}
		if out, err := kmsgate(t, "token", "list", "--dir", dir); err != nil || strings.Count(out, "stray") != 2 {
			t.Errorf("running %v: token list: %v, want two stray objects, got:\n%s", running, err, out)
		}
		out, err := kmsgate(t, "doctor", "--timeout", "2m", "--dir", dir)
		if err == nil || strings.Count(out, "problem: ") != 2 || strings.Count(out, id) != 2 {
			t.Errorf("running %v: doctor: %v, want two problems with CKA_ID %s, got:\n%s", running, err, id, out)
		}
		out, err = kmsgate(t, "doctor", "--timeout", "2m", "--dir", dir, "--repair", "--yes")
		if err != nil || strings.Count(out, "Destroyed ") != 2 || !strings.Contains(out, "No problems were found.") {
			t.Errorf("running %v: doctor --repair: %v, want two objects destroyed, got:\n%s", running, err, out)
		}
		out, err = kmsgate(t, "token", "list", "--dir", dir)
		if err != nil || strings.Contains(out, "stray") || strings.Contains(out, id) {
			t.Errorf("running %v: token list after the repair: %v, want no strays, got:\n%s", running, err, out)
		}
		if running {
			signAll(t, g)
			if err := g.Stop(); err != nil {
				t.Fatal(err)
			}
		}
	}
	signAll(t, start(t, dir))
	verifyAudit(t, dir)
}

// plant generates a key pair in the token of a stopped gateway, and returns its CKA_ID in
// hexadecimal.
func plant(t *testing.T, dir string) string {
	t.Helper()
	soft, err := softhsm.Open(filepath.Join(dir, "softhsm"), nil)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := token.Open(token.Config{Module: soft.Module, Label: softhsm.Label, PIN: token.PIN(soft.PIN()),
		BeforeLogin: soft.Guard, AfterChange: soft.Flush})
	if err != nil {
		t.Fatal(err)
	}
	id := make([]byte, 16)
	rand.Read(id)
	if _, err := tok.Generate(t.Context(), hsm.EC_P256, id); err != nil {
		t.Fatal(err)
	}
	if err := tok.Close(); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(id)
}

// smallConfiguration is the configuration of a gateway with one key.
const smallConfiguration = `instance: {id: kst-small, region: cn-hangzhou, account: "1000000000000001"}
token: {softhsm: softhsm}
listeners: [{address: "127.0.0.1:0"}]
`

// TestDamagedFiles deletes each file of a small token, one at a time, and truncates each. Lock
// files are empty, so it does not truncate them, and it deletes only one of the objects' locks. The
// doctor must be right: if it reports no problem, the gateway starts and every key signs;
// otherwise, it names the file. A gateway that does not start must say why.
func TestDamagedFiles(t *testing.T) {
	small := t.TempDir()
	configuration := filepath.Join(small, "kmsgate.yaml")
	if err := os.WriteFile(configuration, []byte(smallConfiguration), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"init", "--yes"}, {"key", "create", "--spec", "EC_P256"}} {
		if out, err := kmsgate(t, append(args, "--config", configuration)...); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	files, err := filepath.Glob(filepath.Join(small, "softhsm", "tokens", "*", "*"))
	if err != nil || len(files) != 19 {
		t.Fatalf("got %d files, %v, want 19: those of 8 objects and of the token", len(files), err)
	}
	outcomes := make(map[string]int)
	var mu sync.Mutex // guards outcomes
	try := func(t *testing.T, name, file string, cut bool, size int64) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			outcome := damaged(t, small, file, cut, size)
			mu.Lock()
			defer mu.Unlock()
			outcomes[outcome]++
		})
	}
	t.Run("each", func(t *testing.T) {
		for _, file := range files {
			for _, cut := range []bool{false, true} {
				info, err := os.Stat(file)
				if err != nil {
					t.Fatal(err)
				}
				if info.Size() == 0 && (cut || filepath.Ext(file) == ".lock" && filepath.Base(file) != "token.lock") {
					continue // the test deletes one object's lock below
				}
				name := filepath.Base(file) + " deleted"
				if cut {
					name = filepath.Base(file) + " cut short"
				}
				try(t, name, file, cut, info.Size())
			}
		}
		locks, err := filepath.Glob(filepath.Join(small, "softhsm", "tokens", "*", "*-*.lock"))
		if err != nil || len(locks) != 8 {
			t.Fatalf("got %d locks of objects, %v, want 8", len(locks), err)
		}
		try(t, "a lock deleted", locks[0], false, 0)
	})
	// The comparison is meaningful only if each outcome occurs.
	for _, outcome := range []string{"signs", "does not sign", "does not start"} {
		if outcomes[outcome] == 0 {
			t.Errorf("got outcomes %v, want each at least once", outcomes)
		}
	}
	t.Log(outcomes)
}

// damaged truncates or deletes one file of a copy of the gateway, and returns the consequence.
func damaged(t *testing.T, small, file string, cut bool, size int64) (outcome string) {
	dir, err := os.MkdirTemp("", "small")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.CopyFS(dir, os.DirFS(small)); err != nil {
		t.Fatal(err)
	}
	if err := private(dir); err != nil {
		t.Fatal(err)
	}
	relative, err := filepath.Rel(small, file)
	if err != nil {
		t.Fatal(err)
	}
	path, configuration := filepath.Join(dir, relative), filepath.Join(dir, "kmsgate.yaml")
	if cut {
		err = os.Truncate(path, size/2)
	} else {
		err = os.Remove(path)
	}
	if err != nil {
		t.Fatal(err)
	}
	examined, doctorErr := runCommand("doctor", "--timeout", "2m", "--config", configuration)
	log, started := startAndStop(t, configuration)
	tested, testErr := runCommand("token", "test", "--config", configuration, "--count", "1")
	switch {
	case !started && doctorErr == nil:
		t.Errorf("the gateway does not start, but the doctor finds no problem:\n%s\n%s", log, examined)
	case !started && (!strings.Contains(examined, "do: ") || !strings.Contains(log, "restore")):
		t.Errorf("the gateway does not start, but it or the doctor gives no advice:\n%s\n%s", log, examined)
	case started && testErr != nil && doctorErr == nil:
		t.Errorf("a key does not sign, but the doctor finds no problem:\n%s\n%s", tested, examined)
	}
	stem := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	if size > 0 && stem != "generation" && !strings.Contains(examined, stem) {
		t.Errorf("the doctor does not name the file %s:\n%s", filepath.Base(path), examined)
	}
	switch {
	case !started:
		return "does not start"
	case testErr != nil:
		return "does not sign"
	}
	return "signs"
}

// runCommand runs a command and returns all that it prints.
func runCommand(args ...string) (out string, err error) {
	cmd := exec.Command(binary, args...)
	cmd.Env = devgateway.Environment()
	text, err := cmd.CombinedOutput()
	return string(text), err
}

// private restores the modes of files, which os.CopyFS does not keep.
func private(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return os.Chmod(path, 0o600)
	})
}

// startAndStop runs `kmsgate serve`, stops it as soon as it serves, and returns its log. started
// reports whether it served.
func startAndStop(t *testing.T, configuration string) (out string, started bool) {
	t.Helper()
	cmd := exec.Command(binary, "serve", "--config", configuration)
	cmd.Env = devgateway.Environment()
	var printed bytes.Buffer
	lines, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer lines.Close()
	cmd.Stderr = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	timer := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer timer.Stop()
	for buffer := make([]byte, 4096); ; {
		n, err := lines.Read(buffer)
		printed.Write(buffer[:n])
		if !started && strings.Contains(printed.String(), "msg=serving") {
			started = true
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Error(err)
			}
		}
		if err != nil { // the process has exited
			break
		}
	}
	if err := cmd.Wait(); (err == nil) != started {
		t.Errorf("kmsgate serve exited with %v, but it served: %v\n%s", err, started, printed.String())
	}
	return printed.String(), started
}
