package rig

import (
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
	PIN    string // the user's PIN
}

const (
	cryptokiLabel = "kmsgate-test"
	cryptokiPIN   = "test1234" // four to eight characters
	cryptokiData  = "/var/lib/opencryptoki/swtok"

	factoryLabel      = "IBM OS PKCS#11"
	factoryOfficerPIN = "87654321" // the token requires a new one before any other operation
	officerPIN        = "12345678"
)

// OpenCryptoki resets the machine's soft token of opencryptoki. A machine has one such token,
// so tests take turns. Opencryptoki requires root: without root, OpenCryptoki skips the test,
// or fails it in CI.
func OpenCryptoki(t testing.TB) *SoftToken {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("opencryptoki needs root")
		}
		t.Skip("opencryptoki needs root")
	}
	module := library(t, "opencryptoki/libopencryptoki.so.0")
	turn := takeTurn(t)
	makeLockDirectories(t)
	startSlotDaemon(t, turn)
	slot, label := softSlot(t)
	if label != factoryLabel && label != cryptokiLabel {
		t.Fatalf("the soft token of this machine is labelled %q, which no test uses; not touching it", label)
	}
	wipeSoftToken(t)
	pkcsconf(t, cryptokiLabel+"\n", "-I", "-c", slot, "-S", factoryOfficerPIN)
	if _, label = softSlot(t); label != cryptokiLabel {
		wipeSoftToken(t)
		// If localhost does not resolve, the library of the TPM token closes the standard
		// input, from which pkcsconf reads the label (measured).
		t.Fatalf("the soft token was labelled %q, want %q: check that this machine resolves localhost", label, cryptokiLabel)
	}
	// The user must change a PIN that the security officer has set.
	pkcsconf(t, "", "-P", "-c", slot, "-S", factoryOfficerPIN, "-n", officerPIN)
	pkcsconf(t, "", "-u", "-c", slot, "-S", officerPIN, "-n", "changeme")
	pkcsconf(t, "", "-p", "-c", slot, "-U", "changeme", "-n", cryptokiPIN)
	return &SoftToken{Module: module, Label: cryptokiLabel, PIN: cryptokiPIN}
}

// takeTurn waits until no other test uses the token, and no daemon of another test runs. A process has the
// turn while it has the file open.
func takeTurn(t testing.TB) *os.File {
	t.Helper()
	f, err := os.OpenFile("/run/lock/kmsgate-opencryptoki", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() }) // closing releases the lock
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return f
}

// makeLockDirectories makes the directories that systemd-tmpfiles would make. A container
// lacks it.
func makeLockDirectories(t testing.TB) {
	t.Helper()
	for _, dir := range []string{"", "swtok", "tpm", "icsf", "ccatok", "ep11tok", "lite"} {
		if err := os.MkdirAll(filepath.Join("/var/lock/opencryptoki", dir), 0o770); err != nil {
			t.Fatal(err)
		}
	}
}

// slotDaemon runs opencryptoki's daemon until its input ends, however the process that holds the
// other end does. A daemon that outlived a killed test would keep the token's users in its memory,
// and the next one would crash in the library (measured).
const slotDaemon = `/usr/sbin/pkcsslotd -f & daemon=$!; cat > /dev/null; kill $daemon && wait $daemon`

// startSlotDaemon starts opencryptoki's daemon for the test, unless one is running. The daemon keeps
// the turn until it has ended.
func startSlotDaemon(t testing.TB, turn *os.File) {
	t.Helper()
	running := func() bool { return exec.Command("/usr/sbin/pkcsconf", "-i").Run() == nil }
	if running() {
		return
	}
	if _, err := exec.LookPath("/usr/sbin/pkcsslotd"); err != nil {
		t.Fatalf("opencryptoki's daemon (run `make setup-test` to install it): %v", err)
	}
	// The output is kept for failures only: a killed daemon leaves shared memory behind, and the
	// next daemon reports that it reclaims it. It is no pipe, which would end with this process.
	output, err := os.Create(filepath.Join(t.TempDir(), "pkcsslotd"))
	if err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command("sh", "-c", slotDaemon)
	daemon.Stdout, daemon.Stderr, daemon.ExtraFiles = output, output, []*os.File{turn}
	input, err := daemon.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatalf("starting opencryptoki's daemon: %v", err)
	}
	t.Cleanup(func() {
		err := errors.Join(input.Close(), daemon.Wait(), output.Close())
		if text, readErr := os.ReadFile(output.Name()); err != nil || readErr != nil || t.Failed() {
			t.Logf("pkcsslotd: %v, %v, %s", err, readErr, text)
		}
	})
	poll(t, "opencryptoki's daemon", running)
}

var (
	tokenNumber = regexp.MustCompile(`^Token #(\d+)`)
	tokenLabel  = regexp.MustCompile(`(?m)^\s*Label: (.*?)\s*$`)
)

// softSlot returns the slot and the label of the soft token.
func softSlot(t testing.TB) (slot, label string) {
	t.Helper()
	out := pkcsconf(t, "", "-t")
	for _, token := range regexp.MustCompile(`(?m)^Token #\d+[^\n]*\n(?:\s.*\n?)*`).FindAllString(out, -1) {
		number, name := tokenNumber.FindStringSubmatch(token), tokenLabel.FindStringSubmatch(token)
		if strings.Contains(token, "IBM SoftTok") && number != nil && name != nil {
			return number[1], name[1]
		}
	}
	t.Fatalf("pkcsconf lists no soft token: %s", out)
	return "", ""
}

// wipeSoftToken returns the token to its state after installation. C_InitToken cannot do that:
// afterwards, neither the security officer's previous PIN nor the factory PIN works (measured).
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
