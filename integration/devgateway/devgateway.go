// Package devgateway runs the kmsgate binary's dev gateway and makes clients
// for it, for the tests and the demonstration.
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

// startTime bounds how long a gateway may take to be ready: generating an
// RSA-3072 key alone can take seconds on a busy machine.
const startTime = time.Minute

// A Gateway is a running `kmsgate dev`.
type Gateway struct {
	Dir string
	Env map[string]string // what Dir/env exports

	cmd    *exec.Cmd
	exited chan error
	output *output
}

// started counts gateways. Each gets an address of its own: the SDK keeps one
// transport for a host and port as long as its process lives, with the CA that
// it first had, and the system gives free ports out again.
var started atomic.Int32

// Start runs the binary on dir and a free port and waits until it accepts
// connections. Its environment is Environment.
func Start(ctx context.Context, binary, dir string, args ...string) (*Gateway, error) {
	g := &Gateway{Dir: dir, exited: make(chan error, 1), output: new(output)}
	n := started.Add(1)
	listen := fmt.Sprintf("127.0.%d.%d:0", n/250, n%250+2)
	args = append([]string{"dev", "--dir", dir, "--listen", listen}, args...)
	g.cmd = exec.Command(binary, args...)
	g.cmd.Env = Environment()
	g.cmd.Stdout, g.cmd.Stderr = g.output, g.output
	// A stale env must not be taken for this run's.
	if err := os.Remove(filepath.Join(dir, "env")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := g.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { g.exited <- g.cmd.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		var err error
		select {
		case err := <-g.exited:
			return nil, fmt.Errorf("kmsgate dev ended before it was ready: %w\n%s", err, g.output)
		case <-ctx.Done():
			g.cmd.Process.Kill()
			return nil, fmt.Errorf("kmsgate dev was not ready in time: %w\n%s", ctx.Err(), g.output)
		case <-poll.C:
		}
		g.Env, err = ReadEnv(filepath.Join(dir, "env"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return g, err
	}
}

// Environment is all that a gateway needs to know of ours: where programs are,
// and SoftHSM's module if it is somewhere else than usual.
func Environment() []string {
	// A race detector would sleep for a second at the end of every process.
	env := []string{"PATH=" + os.Getenv("PATH"), "GORACE=atexit_sleep_ms=0"}
	if module, ok := os.LookupEnv("SOFTHSM2_MODULE"); ok {
		env = append(env, "SOFTHSM2_MODULE="+module)
	}
	return env
}

// KeySpecs are those of the keys that a dev gateway has from the start.
var KeySpecs = []hsm.KeySpec{hsm.RSA_2048, hsm.RSA_3072, hsm.EC_P256, hsm.EC_P256K, hsm.EC_SM2}

// ReadEnv reads a file of lines of the form export NAME=value.
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
			return nil, fmt.Errorf("not of the form export NAME=value: %q", lines.Text())
		}
		env[name] = strings.Trim(value, "'")
	}
	return env, nil
}

// Stop ends the gateway as an operator does and gives its exit.
func (g *Gateway) Stop() error { return g.signal(syscall.SIGTERM) }

// Interrupt ends the gateway as Ctrl-C does.
func (g *Gateway) Interrupt() error { return g.signal(syscall.SIGINT) }

// Kill ends the gateway without a chance to clean up.
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
	g.exited <- err // for whoever asks again
	return err
}

// Pid is the gateway's process.
func (g *Gateway) Pid() int { return g.cmd.Process.Pid }

// Output is what the gateway printed so far.
func (g *Gateway) Output() string { return g.output.String() }

// output is a buffer that can be read while it is written.
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

// SDK makes a client of Alibaba Cloud's SDK kms-20160120 as its users do:
// endpoint, CA and access key, nothing else.
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
