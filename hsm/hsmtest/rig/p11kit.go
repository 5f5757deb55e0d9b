package rig

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/softhsm"
)

// A Remote is a SoftHSM token in another process, reached through p11-kit's
// remoting: a server that forks a process for each user of the client module.
//
// The client reads the server's address from the environment whenever a program
// requests its function list. Each time it opens a separate connection, so two
// bindings in one process do not share a login. A broken connection stays
// broken until C_Finalize and C_Initialize.
type Remote struct {
	Module      string // the path of the client, a PKCS#11 module
	Environment string // NAME=value, which a process that uses Module must have set

	t      testing.TB
	conf   string
	socket string
	server *exec.Cmd // nil after Kill
}

const addressVariable = "P11_KIT_SERVER_ADDRESS"

// P11Kit serves the token labelled softhsm.Label of the SoftHSM that the file conf
// configures. It sets the server's address in this process's environment.
func P11Kit(t testing.TB, conf string) *Remote {
	t.Helper()
	// t.TempDir may be too long: a socket's path has 107 bytes at most.
	dir, err := os.MkdirTemp("", "p11kit")
	if err != nil {
		t.Fatal(err)
	}
	r := &Remote{
		Module: library(t, "pkcs11/p11-kit-client.so"),
		t:      t,
		conf:   conf,
		socket: filepath.Join(dir, "socket"),
	}
	address := "unix:path=" + r.socket
	r.Environment = addressVariable + "=" + address
	setenv(t, addressVariable, address)
	t.Cleanup(func() {
		r.Kill()
		os.RemoveAll(dir)
	})
	r.Start()
	return r
}

// setenv is like testing.T.Setenv, for every testing.TB.
func setenv(t testing.TB, name, value string) {
	old, ok := os.LookupEnv(name)
	t.Cleanup(func() {
		if os.Unsetenv(name); ok {
			os.Setenv(name, old)
		}
	})
	if err := os.Setenv(name, value); err != nil {
		t.Fatal(err)
	}
}

// Start starts the server. After Kill, it uses the same address again.
func (r *Remote) Start() {
	r.t.Helper()
	module, err := softhsm.Module()
	if err != nil {
		r.t.Fatal(err)
	}
	// The time-out ends the server if this process is killed.
	r.server = exec.Command("p11-kit", "server", "--foreground", "--timeout", "600",
		"--name", r.socket, "--provider", module, "pkcs11:token="+softhsm.Label)
	r.server.Env = append(os.Environ(), "SOFTHSM2_CONF="+r.conf)
	r.server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	r.server.Stderr = os.Stderr
	if err := r.server.Start(); err != nil {
		r.t.Fatalf("starting p11-kit's server (run `make setup-test` to install it): %v", err)
	}
	poll(r.t, "p11-kit's server", func() bool {
		c, err := net.Dial("unix", r.socket)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// Kill kills the server and the processes that it forked for its clients.
func (r *Remote) Kill() {
	if r.server == nil {
		return
	}
	r.signal(unix.SIGKILL)
	_ = r.server.Wait() // the error only reports the kill
	r.server = nil
}

// Stop suspends the server and its processes. Calls hang until Continue.
func (r *Remote) Stop() { r.signal(unix.SIGSTOP) }

// Continue resumes the server and its processes after Stop.
func (r *Remote) Continue() { r.signal(unix.SIGCONT) }

func (r *Remote) signal(s unix.Signal) {
	r.t.Helper()
	if err := unix.Kill(-r.server.Process.Pid, s); err != nil {
		r.t.Errorf("signalling p11-kit's server: %v", err)
	}
}
