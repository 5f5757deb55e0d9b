package dev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/internal/signals"
)

// A StatusError is the exit status of a command that has failed.
type StatusError struct{ Status int }

func (e *StatusError) Error() string {
	return fmt.Sprintf("the command ended with exit status %d", e.Status)
}

// Status splits an error of Run into the exit status of the command, which has reported its failure, and
// all other errors. The status is 0 if the command has not failed; then the error is the same as before.
func Status(err error) (status int, rest error) {
	switch e := err.(type) {
	case *StatusError:
		return e.Status, nil
	case interface{ Unwrap() []error }:
		for _, part := range e.Unwrap() {
			s, other := Status(part)
			status, rest = max(status, s), errors.Join(rest, other)
		}
		if status != 0 {
			return status, rest
		}
	}
	return 0, err
}

// otherCredentials are variables of the environment that would make an SDK use another credential.
var otherCredentials = []string{"ALIBABA_CLOUD_SECURITY_TOKEN", "ALIBABA_CLOUD_PROFILE", "ALIBABA_CLOUD_CREDENTIALS_URI"}

// commandEnvironment returns the environment of a command: this process's, minus the variables of another
// gateway, plus env.
func commandEnvironment(env Environment) (all []string) {
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); !slices.Contains(otherCredentials, name) && !strings.HasPrefix(name, "KMSGATE_") {
			all = append(all, v)
		}
	}
	for _, v := range env {
		all = append(all, v[0]+"="+v[1])
	}
	return all
}

// errNotRun means that a signal came before the command was started.
var errNotRun = &StatusError{128 + int(syscall.SIGTERM)}

// runCommand runs a command unless ctx is done, and returns a *StatusError if it fails. It passes SIGINT
// and SIGTERM on. When the gateway no longer serves, or its terminal is gone, it sends SIGTERM.
func runCommand(ctx, serves context.Context, command []string, env Environment) error {
	received := make(chan os.Signal, 2)
	signal.Notify(received, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(received)
	if ctx.Err() != nil { // by a signal that came before Notify
		return errNotRun
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Env = os.Stdin, os.Stdout, os.Stderr, commandEnvironment(env)
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for done, stopping := serves.Done(), ctx.Done(); ; {
		select {
		case err := <-ended:
			return statusOf(err)
		case s := <-received:
			if s != syscall.SIGINT || !isForeground() { // a terminal sends SIGINT to the command, too
				_ = cmd.Process.Signal(s) // it may have ended
			}
		case <-stopping:
			if signals.EndedBy(ctx) == unix.SignalName(unix.SIGHUP) {
				_ = cmd.Process.Signal(syscall.SIGTERM)
			}
			stopping = nil
		case <-done:
			_ = cmd.Process.Signal(syscall.SIGTERM)
			done = nil
		}
	}
}

// isForeground reports whether this process belongs to the foreground of a terminal.
func isForeground() bool {
	group, err := unix.IoctlGetInt(int(os.Stdin.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

func statusOf(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return &StatusError{128 + int(status.Signal())} // as a shell reports it
	}
	return &StatusError{exit.ExitCode()}
}
