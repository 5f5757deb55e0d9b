package dev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
)

// A StatusError is the exit status of a command that has failed.
type StatusError struct{ Status int }

func (e *StatusError) Error() string {
	return fmt.Sprintf("the command ended with exit status %d", e.Status)
}

// hidden are variables of the environment that would make an SDK use another credential.
var hidden = []string{"ALIBABA_CLOUD_SECURITY_TOKEN", "ALIBABA_CLOUD_PROFILE", "ALIBABA_CLOUD_CREDENTIALS_URI"}

// runCommand runs a command with an environment, and returns a *StatusError if it fails. If ctx is
// done, the command gets SIGTERM, unless that is because of an interrupt: a terminal sends that to the
// command, too.
func runCommand(ctx context.Context, command []string, env Environment) error {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); !slices.Contains(hidden, name) {
			cmd.Env = append(cmd.Env, v)
		}
	}
	for _, v := range env {
		cmd.Env = append(cmd.Env, v[0]+"="+v[1])
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() {
		if !strings.Contains(context.Cause(ctx).Error(), syscall.SIGINT.String()) {
			_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		}
	})
	defer stop()
	err := cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return &StatusError{128 + int(status.Signal())} // as a shell reports it
	}
	return &StatusError{exit.ExitCode()}
}
