// Package devgateway runs `kmsgate dev` and creates SDK clients for it, for the tests and the
// demonstration.
package devgateway

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	openapi "github.com/alibabacloud-go/darabonba-openapi/v2/client"
	kms "github.com/alibabacloud-go/kms-20160120/v3/client"
	"github.com/alibabacloud-go/tea/tea"

	"github.com/kmsgate/kmsgate/hsm"
)

// startTimeout limits how long a gateway may take to become ready. Generating an RSA-3072 key alone
// can take seconds on a busy machine.
const startTimeout = time.Minute

// A Gateway is a running `kmsgate dev`.
type Gateway struct {
	Dir string
	Env map[string]string // the variables that Dir/env exports

	cmd    *exec.Cmd
	exited chan error
	output *output
}

// started counts gateways, to give each a different IP address. The SDK keeps one transport for
// each host and port as long as its process lives, with the CA that it used first, and the
// operating system reuses ports.
var started atomic.Int32

// Start runs `kmsgate dev` with the directory dir on a free port of 127.0.0.0/8, and waits until it
// accepts connections. args are appended to the command line. The process has the environment that
// Environment returns. Start returns an error if the gateway is not ready within a minute.
func Start(ctx context.Context, binary, dir string, args ...string) (*Gateway, error) {
	return StartLogging(ctx, binary, dir, nil, args...)
}

// StartLogging is like Start, but the process has stderr as its standard error. If stderr is nil,
// Output returns standard error, too.
func StartLogging(ctx context.Context, binary, dir string, stderr *os.File, args ...string) (*Gateway, error) {
	g := &Gateway{Dir: dir, exited: make(chan error, 1), output: new(output)}
	n := started.Add(1)
	listen := fmt.Sprintf("127.0.%d.%d:0", n/250, n%250+2)
	args = append([]string{"dev", "--dir", dir, "--listen", listen}, args...)
	g.cmd = exec.Command(binary, args...)
	g.cmd.Env = Environment()
	g.cmd.Stdout, g.cmd.Stderr = g.output, g.output
	if stderr != nil {
		g.cmd.Stderr = stderr
	}
	// The file env may be left from an earlier run. Start takes a new one as the sign of readiness.
	if err := os.Remove(filepath.Join(dir, "env")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := g.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { g.exited <- g.cmd.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		var err error
		select {
		case err := <-g.exited:
			return nil, fmt.Errorf("kmsgate dev exited before it was ready: %w\n%s", err, g.output)
		case <-ctx.Done():
			g.cmd.Process.Kill()
			return nil, fmt.Errorf("waiting until kmsgate dev is ready: %w\n%s", ctx.Err(), g.output)
		case <-poll.C:
		}
		g.Env, err = ReadEnv(filepath.Join(dir, "env"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return g, err
	}
}

// Environment returns the environment of a kmsgate process: PATH, and SOFTHSM2_MODULE if the
// caller's environment sets it.
func Environment() []string {
	// By default, the race detector sleeps for a second when a process exits.
	env := []string{"PATH=" + os.Getenv("PATH"), "GORACE=atexit_sleep_ms=0"}
	if module, ok := os.LookupEnv("SOFTHSM2_MODULE"); ok {
		env = append(env, "SOFTHSM2_MODULE="+module)
	}
	return env
}

// KeySpecs are the KeySpecs of the keys that `kmsgate dev` creates at its first start.
var KeySpecs = []hsm.KeySpec{hsm.RSA_2048, hsm.RSA_3072, hsm.EC_P256, hsm.EC_P256K, hsm.EC_SM2}

// ReadEnv reads a file whose lines have the form "export NAME=value". It removes single quotes
// around a value.
func ReadEnv(path string) (map[string]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	env := make(map[string]string)
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		assignment, ok := strings.CutPrefix(lines.Text(), "export ")
		name, value, isAssignment := strings.Cut(assignment, "=")
		if !ok || !isAssignment {
			return nil, fmt.Errorf("%q: line %q does not have the form export NAME=value", path, lines.Text())
		}
		env[name] = strings.Trim(value, "'")
	}
	return env, nil
}

// Stop sends SIGTERM, as systemd does, and waits until the gateway exits. It returns an error
// unless the exit status is 0.
func (g *Gateway) Stop() error { return g.signal(syscall.SIGTERM) }

// Interrupt sends SIGINT, as Ctrl-C does, and otherwise behaves like Stop.
func (g *Gateway) Interrupt() error { return g.signal(syscall.SIGINT) }

// Kill sends SIGKILL, so that the gateway cannot clean up, and waits until it exits.
func (g *Gateway) Kill() error {
	err := g.signal(syscall.SIGKILL)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return nil
	}
	return err
}

func (g *Gateway) signal(s syscall.Signal) error {
	if err := g.cmd.Process.Signal(s); err != nil {
		return err
	}
	err := <-g.exited
	g.exited <- err // for the next call
	return err
}

// Pid returns the ID of the gateway's process.
func (g *Gateway) Pid() int { return g.cmd.Process.Pid }

// Output returns all that the gateway has printed so far on standard output and standard error.
func (g *Gateway) Output() string { return g.output.String() }

// output is a buffer that is safe for concurrent use.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// SDK returns a client of Alibaba Cloud's SDK kms-20160120, configured as its users do it: with an
// endpoint, a CA and an access key, and nothing else.
func SDK(env map[string]string) (*kms.Client, error) {
	ca, err := os.ReadFile(env["KMSGATE_CA_FILE"])
	if err != nil {
		return nil, err
	}
	return kms.NewClient(&openapi.Config{
		Endpoint:        tea.String(env["KMSGATE_ENDPOINT"]),
		Ca:              tea.String(string(ca)),
		AccessKeyId:     tea.String(env["KMSGATE_ACCESS_KEY_ID"]),
		AccessKeySecret: tea.String(env["KMSGATE_ACCESS_KEY_SECRET"]),
	})
}
