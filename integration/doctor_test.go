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

// TestDoctorDestroysStrays puts a key pair into the token that no record speaks of.
// The doctor reports it, destroys it when told to, and nothing else: all keys sign
// as before. So it goes with a gateway that runs, and with one that is stopped.
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
			t.Errorf("running %v: two strays are not in the list: %v\n%s", running, err, out)
		}
		out, err := kmsgate(t, "doctor", "--dir", dir)
		if err == nil || strings.Count(out, "problem: ") != 2 || strings.Count(out, id) != 2 {
			t.Errorf("running %v: two strays with CKA_ID %s are not reported: %v\n%s", running, id, err, out)
		}
		out, err = kmsgate(t, "doctor", "--dir", dir, "--repair", "--yes")
		if err != nil || strings.Count(out, "Destroyed ") != 2 || !strings.Contains(out, "No problems were found.") {
			t.Errorf("running %v: repairing: %v\n%s", running, err, out)
		}
		if out, err := kmsgate(t, "token", "list", "--dir", dir); err != nil || strings.Contains(out, "stray") || strings.Contains(out, id) {
			t.Errorf("running %v: after the repair: %v\n%s", running, err, out)
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

// plant makes a key pair in the token of a gateway that is stopped, and gives its
// CKA_ID.
func plant(t *testing.T, dir string) string {
	t.Helper()
	soft, err := softhsm.Open(filepath.Join(dir, "softhsm"), nil)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := token.Open(token.Config{Module: soft.Module, Label: softhsm.Label, PIN: token.PIN(soft.PIN()), BeforeLogin: soft.Guard, AfterChange: soft.Flush})
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

const smallConfiguration = `instance: {id: kst-small, region: cn-hangzhou, account: "1000000000000001"}
token: {softhsm: softhsm}
listeners: [{address: "127.0.0.1:0"}]
`

// TestDamagedFiles deletes every file of a small token in turn, and cuts every one
// short, but for the locks, which are empty and of which one stands for all. The doctor and the facts agree: where it has no problem to tell, the
// gateway starts and every key signs; where that is not so, it names the file. And
// a gateway that does not start says why.
func TestDamagedFiles(t *testing.T) {
	small, err := os.MkdirTemp("", "small") // short: the socket's path is in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(small) })
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
	if err != nil || len(files) != 17 {
		t.Fatalf("%d files, %v: want those of 7 objects and of the token", len(files), err)
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
					continue // one object's lock stands for all, below
				}
				name := filepath.Base(file) + " deleted"
				if cut {
					name = filepath.Base(file) + " cut short"
				}
				try(t, name, file, cut, info.Size())
			}
		}
		locks, err := filepath.Glob(filepath.Join(small, "softhsm", "tokens", "*", "*-*.lock"))
		if err != nil || len(locks) != 7 {
			t.Fatal(locks, err)
		}
		try(t, "a lock deleted", locks[0], false, 0)
	})
	// The comparison tells something only if there is each kind.
	for _, outcome := range []string{"well", "does not sign", "does not start"} {
		if outcomes[outcome] == 0 {
			t.Errorf("no damage came to %q: %v", outcome, outcomes)
		}
	}
	t.Log(outcomes)
}

// damaged damages one file of a copy of the gateway, and gives what that comes to.
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
	said, doctorErr := quickly("doctor", "--config", configuration)
	why, started := serves(t, configuration)
	tested, testErr := quickly("token", "test", "--config", configuration, "--count", "1")
	switch {
	case !started && doctorErr == nil:
		t.Errorf("the gateway does not start, and the doctor finds no problem:\n%s\n%s", why, said)
	case !started && (!strings.Contains(said, "do: ") || !strings.Contains(why, "restore")):
		t.Errorf("what to do is not said by the doctor, or by the gateway that does not start:\n%s\n%s", said, why)
	case started && testErr != nil && doctorErr == nil:
		t.Errorf("a key does not sign, and the doctor finds no problem:\n%s\n%s", tested, said)
	}
	stem := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	if size > 0 && stem != "generation" && !strings.Contains(said, stem) {
		t.Errorf("the doctor does not name %s:\n%s", filepath.Base(path), said)
	}
	switch {
	case !started:
		return "does not start"
	case testErr != nil:
		return "does not sign"
	}
	return "well"
}

// atOnce has the race detector not wait a second at the end of every process, of
// which there are many here.
const atOnce = "GORACE=atexit_sleep_ms=0"

// quickly runs a command and gives all that it prints.
func quickly(args ...string) (out string, err error) {
	cmd := exec.Command(binary, args...)
	cmd.Env = append(devgateway.Environment(), atOnce)
	text, err := cmd.CombinedOutput()
	return string(text), err
}

// private gives files the modes again that a copy has not.
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

// serves starts a gateway, and stops it when it serves. It gives what it printed.
func serves(t *testing.T, configuration string) (out string, started bool) {
	t.Helper()
	cmd := exec.Command(binary, "serve", "--config", configuration)
	cmd.Env = append(devgateway.Environment(), atOnce)
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
		if err != nil { // it has ended
			break
		}
	}
	if err := cmd.Wait(); (err == nil) != started {
		t.Errorf("it served: %v, and ended with %v:\n%s", started, err, printed.String())
	}
	return printed.String(), started
}
