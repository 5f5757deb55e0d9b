package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// A server is a process that serves the API and has written DIR/env.
type server struct {
	dir    string
	cmd    *exec.Cmd
	output bytes.Buffer
	exited chan error
}

// startTimeout limits how long a server may take to start: making an RSA key can take seconds.
const startTimeout = 2 * time.Minute

// start starts a server, whose last argument is its directory, and waits until it serves.
func start(ctx context.Context, dir, program string, args ...string) (*server, error) {
	s := &server{dir: dir, cmd: exec.Command(program, append(args, dir)...), exited: make(chan error, 1)}
	s.cmd.Stdout, s.cmd.Stderr = &s.output, &s.output
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { s.exited <- s.cmd.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		if _, err := os.Stat(filepath.Join(dir, "env")); err == nil {
			return s, nil
		}
		select {
		case err := <-s.exited:
			return nil, fmt.Errorf("%s ended: %w\n%s", program, err, s.output.String())
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("%s does not serve: %w", program, ctx.Err()), s.stop())
		case <-poll.C:
		}
	}
}

// stop ends the server.
func (s *server) stop() error {
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may have ended, which Wait reports
	if err := <-s.exited; err != nil {
		return fmt.Errorf("%s ended: %w\n%s", s.cmd.Path, err, s.output.String())
	}
	return nil
}
