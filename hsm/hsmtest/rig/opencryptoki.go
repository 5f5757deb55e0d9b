package rig

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A SoftToken is the soft token of opencryptoki.
type SoftToken struct {
	Module string
	Label  string
	PIN    string // of the user
}

const (
	cryptokiLabel = "kmsgate-test"
	cryptokiPIN   = "test1234" // four to eight characters
	cryptokiData  = "/var/lib/opencryptoki/swtok"

	factoryLabel      = "IBM OS PKCS#11"
	factoryOfficerPIN = "87654321" // must be changed before anything else works
	officerPIN        = "12345678"
)

// OpenCryptoki makes the machine's soft token of opencryptoki new. There is one
// on a machine, so tests take turns. It needs root, as opencryptoki does; who has
// it not skips the test, but not in CI.
func OpenCryptoki(t testing.TB) *SoftToken {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("opencryptoki needs root")
		}
		t.Skip("opencryptoki needs root")
	}
	module := library(t, "opencryptoki/libopencryptoki.so.0")
	takeTurn(t)
	makeLockDirectories(t)
	startSlotDaemon(t)
	slot, label := softSlot(t)
	if label != factoryLabel && label != cryptokiLabel {
		t.Fatalf("the soft token of this machine is labelled %q: it is not a test's, so it is left alone", label)
	}
	wipeSoftToken(t)
	pkcsconf(t, cryptokiLabel+"\n", "-I", "-c", slot, "-S", factoryOfficerPIN)
	if _, label = softSlot(t); label != cryptokiLabel {
		wipeSoftToken(t)
		// The library of its TPM token closes the standard input then (measured).
		t.Fatalf("the soft token was labelled %q: does this machine not know where localhost is?", label)
	}
	// A PIN that the security officer set is to be changed by the user.
	pkcsconf(t, "", "-P", "-c", slot, "-S", factoryOfficerPIN, "-n", officerPIN)
	pkcsconf(t, "", "-u", "-c", slot, "-S", officerPIN, "-n", "changeme")
	pkcsconf(t, "", "-p", "-c", slot, "-U", "changeme", "-n", cryptokiPIN)
	return &SoftToken{Module: module, Label: cryptokiLabel, PIN: cryptokiPIN}
}

// takeTurn waits until no other test has the token.
func takeTurn(t testing.TB) {
	t.Helper()
	f, err := os.OpenFile("/run/lock/kmsgate-opencryptoki", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() }) // which unlocks
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
}

// makeLockDirectories makes what systemd-tmpfiles makes, which a container has
// not.
func makeLockDirectories(t testing.TB) {
	t.Helper()
	for _, dir := range []string{"", "swtok", "tpm", "icsf", "ccatok", "ep11tok", "lite"} {
		if err := os.MkdirAll(filepath.Join("/var/lock/opencryptoki", dir), 0o770); err != nil {
			t.Fatal(err)
		}
	}
}

// startSlotDaemon starts opencryptoki's daemon for the test, if none runs.
func startSlotDaemon(t testing.TB) {
	t.Helper()
	isUp := func() bool { return exec.Command("/usr/sbin/pkcsconf", "-i").Run() == nil }
	if isUp() {
		return
	}
	daemon := exec.Command("/usr/sbin/pkcsslotd", "-f")
	// A daemon that was killed leaves shared memory, which the next one says that it reclaims.
	output := new(bytes.Buffer)
	daemon.Stdout, daemon.Stderr = output, output
	if err := daemon.Start(); err != nil {
		t.Fatalf("starting opencryptoki's daemon, which `make setup-test` installs: %v", err)
	}
	t.Cleanup(func() {
		err := errors.Join(daemon.Process.Signal(unix.SIGTERM), daemon.Wait())
		if err != nil || t.Failed() {
			t.Logf("pkcsslotd: %v, %s", err, output)
		}
	})
	poll(t, "opencryptoki's daemon", isUp)
}

var (
	tokenNumber = regexp.MustCompile(`^Token #(\d+)`)
	tokenLabel  = regexp.MustCompile(`(?m)^\s*Label: (.*?)\s*$`)
)

// softSlot finds the slot of the soft token, and its label.
func softSlot(t testing.TB) (slot, label string) {
	t.Helper()
	out := pkcsconf(t, "", "-t")
	for _, token := range regexp.MustCompile(`(?m)^Token #\d+[^\n]*\n(?:\s.*\n?)*`).FindAllString(out, -1) {
		number, name := tokenNumber.FindStringSubmatch(token), tokenLabel.FindStringSubmatch(token)
		if strings.Contains(token, "IBM SoftTok") && number != nil && name != nil {
			return number[1], name[1]
		}
	}
	t.Fatalf("opencryptoki has no soft token: %s", out)
	return "", ""
}

// wipeSoftToken brings the token back to how it is installed. C_InitToken does
// not: after it neither the old security officer's PIN works nor the first one
// (measured).
func wipeSoftToken(t testing.TB) {
	t.Helper()
	files := []string{"/dev/shm/var.lib.opencryptoki.swtok"}
	for _, pattern := range []string{"NVTOK.DAT", "MK_*", "TOK_OBJ/*"} {
		found, err := filepath.Glob(filepath.Join(cryptokiData, pattern))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	for _, file := range files {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

func pkcsconf(t testing.TB, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.Command("/usr/sbin/pkcsconf", args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("pkcsconf %s: %v: %s", args[0], err, out)
	}
	return string(out)
}
