package token_test

import (
	"bufio"
	"cmp"
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

// TestKilledHSM kills the process that the token is in, and starts it again. With
// two calls under way p11-kit's client would wait for ever then: who reads another
// call's answer waits to be woken by who cannot read his (its rpc_socket_read since
// 0.23.17, and measured).
func TestKilledHSM(t *testing.T) {
	remote, cfg := newRemote(t)
	var losses atomic.Int32
	cfg.OnLoss = func() { losses.Add(1) }
	tok := open(t, cfg)
	l := startLoad(t, tok, generate(t, tok, hsm.EC_P256), generate(t, tok, hsm.RSA_2048))
	for range 3 {
		l.survives("a kill", func() {
			before := losses.Load()
			remote.Kill()
			waitFor(t, "the loss to be noticed", func() bool { return losses.Load() > before })
			remote.Start()
		})
	}
}

// TestStoppedHSM stops the process that the token is in for 5 s. Callers leave
// when their time is over; those who have more of it get their signatures.
func TestStoppedHSM(t *testing.T) {
	remote, cfg := newRemote(t)
	tok := open(t, cfg)
	key := generate(t, tok, hsm.EC_P256)
	inTime(t, func() string {
		patient := startLoad(t, tok, key) // with 20 s, and under way throughout
		patient.goesOn(64)
		remote.Stop()
		late := leaveInTime(t, tok, key)
		remote.Continue()
		late = cmp.Or(late, patient.recovers("the process went on"))
		patient.goesOn(64)
		patient.end()
		return late
	})
}

// leaveInTime has 32 callers try twice to sign, each time for 2.5 s, with a token
// that does not answer.
func leaveInTime(t *testing.T, tok *token.Token, key hsm.Key) (late string) {
	const patience = 2500 * time.Millisecond
	var mu sync.Mutex
	var callers sync.WaitGroup
	for range 32 {
		callers.Go(func() {
			for range 2 {
				began := time.Now()
				err := signIn(tok, key, patience)
				took := time.Since(began)
				if !errors.Is(err, hsm.ErrUnavailable) {
					t.Errorf("a caller was answered %v, want ErrUnavailable", err)
				}
				if (took - patience).Abs() > 300*time.Millisecond {
					mu.Lock()
					late = fmt.Sprintf("a caller with %v left after %v", patience, took)
					mu.Unlock()
				}
			}
		})
	}
	callers.Wait()
	return late
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
		t.Errorf("the other process made %d keys, and ended with %v", keys, err)
	}
	l.goesOn(64)
	if losses.Load() != 0 || f.Collisions() != 0 {
		t.Errorf("%d losses, %d calls torn, want none", losses.Load(), f.Collisions())
	}
}

// churn makes keys and destroys them until its input ends.
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
