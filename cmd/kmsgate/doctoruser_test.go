package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// userConfiguration is the configuration of an instance that does not exist yet, a format for its
// directory.
const userConfiguration = `directory: %s
instance: {id: kst-user, region: cn-hangzhou, account: "1"}
token: {softhsm: softhsm}
listeners: [{address: "127.0.0.1:0"}]
`

// TestDoctorOfAnotherUser examines the instance of another user. That is the one problem, and the
// advice is a command to paste. Only root can start a process of another user; other users examine a
// directory of root.
func TestDoctorOfAnotherUser(t *testing.T) {
	dir, err := os.MkdirTemp("", "kmsgate-other-user") // other users cannot enter t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	configuration := filepath.Join(dir, "kmsgate.yaml")
	describe := func(directory string) {
		t.Helper()
		text := fmt.Appendf(nil, userConfiguration, directory)
		if err := errors.Join(os.WriteFile(configuration, text, 0o600), os.Chmod(configuration, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	command := "kmsgate doctor --config " + configuration + " --timeout 2m0s"
	if os.Getuid() != 0 {
		describe("/")
		oneProblem(t, os.Getuid(), configuration,
			`directory "/" belongs to uid 0`, "do: run it as root: sudo "+command)
		return
	}
	const stranger, service = 65534, 54321
	instance := filepath.Join(dir, "instance")
	if err := errors.Join(os.Mkdir(instance, 0o700), os.Chmod(instance, 0o755)); err != nil {
		t.Fatal(err)
	}
	describe(instance)
	oneProblem(t, stranger, configuration,
		fmt.Sprintf("directory %q belongs to uid 0", instance), "do: run it as root: sudo "+command+"\n")
	if err := os.Chown(instance, service, service); err != nil {
		t.Fatal(err)
	}
	oneProblem(t, stranger, configuration,
		fmt.Sprintf("directory %q belongs to uid %d", instance, service),
		fmt.Sprintf("do: run it as that user: sudo -u '#%d' %s; or, while the gateway runs, as root: sudo %s\n", service, command, command))
	oneProblem(t, 0, configuration, "the gateway is stopped",
		fmt.Sprintf("do: run it as that user: sudo -u '#%d' %s\n", service, command))

	// The user that owns the configuration's directory can replace the configuration.
	if err := os.Chown(dir, service, service); err != nil {
		t.Fatal(err)
	}
	for _, uid := range []int{stranger, 0} {
		oneProblem(t, uid, configuration,
			"The configuration cannot be read, so nothing else was examined: refusing the configuration",
			fmt.Sprintf("do: run it as that user: sudo -u '#%d' %s\n", service, command))
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	oneProblem(t, stranger, configuration,
		"The configuration cannot be read, so nothing else was examined",
		fmt.Sprintf("do: run it as that user: sudo -u '#%d' %s\n", service, command))
}

// oneProblem runs the doctor as a user, and wants it to find one problem.
func oneProblem(t *testing.T, uid int, configuration string, want ...string) {
	t.Helper()
	// Another user can reach the binary through /proc only.
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "doctor", "--config", configuration, "--timeout", "2m")
	cmd.Args[0] = "kmsgate"
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", "KMSGATE_ADMIN_SOCKET=")
	if uid != os.Getuid() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	output, err := cmd.CombinedOutput()
	text := string(output)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.HasPrefix(text, fmt.Sprintf("You are uid %d", uid)) ||
		strings.Count(text, "problem: ") != 1 {
		t.Errorf("as uid %d: got %v, want the uid, one problem and exit status 1:\n%s", uid, err, text)
	}
	for _, part := range want {
		if !strings.Contains(text, part) {
			t.Errorf("as uid %d: %q is not in\n%s", uid, part, text)
		}
	}
}
