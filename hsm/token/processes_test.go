package token_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/token"
	"github.com/kmsgate/kmsgate/softhsm"
)

// TestKilledHSM kills the process of the token and starts it again. With two calls in flight,
// p11-kit's client would wait forever: a thread that reads another thread's answer waits for a
// wake-up from a thread that cannot read anything any more (its rpc_socket_read since 0.23.17,
// and measured).
func TestKilledHSM(t *testing.T) {
	remote, cfg := newRemote(t)
	var losses atomic.Int32
	cfg.OnLoss = func() { losses.Add(1) }
	tok := open(t, cfg)
	l := startLoad(t, tok, generate(t, tok, hsm.EC_P256), generate(t, tok, hsm.RSA_2048))
	for range 3 {
		l.testFault("a kill", func() {
			before := losses.Load()
			remote.Kill()
			waitFor(t, "the loss to be noticed", func() bool { return losses.Load() > before })
			remote.Start()
		})
	}
}

// TestStoppedHSM suspends the process of the token until callers have got errors at their deadlines.
// Callers with later deadlines get their signatures.
func TestStoppedHSM(t *testing.T) {
	remote, cfg := newRemote(t)
	tok := open(t, cfg)
	key := generate(t, tok, hsm.EC_P256)
	l := startLoad(t, tok, key) // with deadlines of 20 s
	l.testFault("suspending the process", func() {
		remote.Stop()
		expectTimeouts(t, tok, key)
		remote.Continue()
	})
	l.waitForMore(64)
}

// expectTimeouts has 32 callers try to sign twice, with deadlines of 2.5 s, with a token that
// does not answer before they have all returned.
func expectTimeouts(t *testing.T, tok *token.Token, key hsm.Key) {
	var callers sync.WaitGroup
	for range 32 {
		callers.Go(func() {
			for range 2 {
				err := signWithin(tok, key, 2500*time.Millisecond)
				if !errors.Is(err, hsm.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Sign with a suspended token: %v, want ErrUnavailable at the deadline", err)
				}
			}
		})
	}
	callers.Wait()
}

// TestChurn has another process make and destroy keys in the token.
func TestChurn(t *testing.T) {
	if pin := os.Getenv("KMSGATE_CHURN"); pin != "" {
		churn(t, token.PIN(pin))
		return
	}
	f, cfg := newFaulty(t)
	var losses atomic.Int32
	cfg.OnLoss = func() { losses.Add(1) }
	tok := open(t, cfg)
	l := startLoad(t, tok, generate(t, tok, hsm.EC_P256), generate(t, tok, hsm.RSA_2048))
	other := exec.Command(os.Args[0], "-test.run=^TestChurn$")
	other.Env = append(os.Environ(), "KMSGATE_CHURN="+string(cfg.PIN))
	other.Stderr = os.Stderr
	stdin, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	keys := 0
	for made := bufio.NewScanner(stdout); made.Scan(); {
		if made.Text() != "made" {
			continue
		}
		if keys++; keys == 100 {
			stdin.Close()
		}
	}
	if err := other.Wait(); err != nil || keys < 100 {
		t.Errorf("the other process made %d keys and ended with %v, want at least 100 and nil", keys, err)
	}
	l.waitForMore(64)
	if losses.Load() != 0 || f.Collisions() != 0 {
		t.Errorf("%d losses and %d collisions, want 0 and 0", losses.Load(), f.Collisions())
	}
}

// churn makes and destroys keys until the standard input ends.
func churn(t *testing.T, pin token.PIN) {
	module, err := softhsm.Module()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { io.Copy(io.Discard, os.Stdin); close(ended) }()
	tok := open(t, token.Config{Module: module, Label: softhsm.Label, PIN: pin})
	for {
		select {
		case <-ended:
			return
		default:
		}
		if err := tok.Destroy(t.Context(), generate(t, tok, hsm.EC_P256)); err != nil {
			t.Fatal(err)
		}
		fmt.Println("made")
	}
}
