package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	kms "github.com/alibabacloud-go/kms-20160120/v3/client"
	"github.com/alibabacloud-go/tea/tea"
	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest/rig"
	"github.com/kmsgate/kmsgate/integration/devgateway"
	"github.com/kmsgate/kmsgate/softhsm"
)

// long returns the second duration with -soak, and the first without.
func long(short, duration time.Duration) time.Duration {
	if *soak > 0 {
		return duration
	}
	return short
}

// TestStandsStill stops the process of a gateway twice, as a snapshot of a virtual machine or a
// debugger does, and then leaves it 5 % of the processors. Afterwards, the same process must serve.
func TestStandsStill(t *testing.T) {
	t.Parallel()
	g, l := newInstance(t, binary), newLedger(newRandom(t))
	g.wrapper = []string{"nice", "-n", "10"}
	g.start(t)
	signers, changers := callerCounts()
	l.start(t, g.env, signers, changers)
	l.served(t, "after the start")
	for range 2 {
		g.signal(t, syscall.SIGSTOP)
		<-time.After(long(4*time.Second, 35*time.Second)) // duration of the fault
		g.signal(t, syscall.SIGCONT)
		l.served(t, "after a pause")
	}
	if failures := l.failures(temporary); failures != "" && *soak == 0 {
		t.Errorf("unexpected answers after short pauses:\n%s", failures)
	}
	end := competitors(t)
	<-time.After(long(6*time.Second, 90*time.Second)) // duration of the fault
	end()
	l.served(t, "after starvation")
	// After a long pause, and without a processor, deadlines of connections pass.
	if failures := l.failures(temporary, unanswered); failures != "" {
		t.Errorf("unexpected answers:\n%s", failures)
	}
	if !g.runs() {
		t.Fatalf("the gateway has exited: %v", g.result)
	}
	l.prove(t, g)
}

// competitors starts two busy processes for each processor, with 9 times the weight of a process
// that is nice by 10. The function that it returns ends them.
func competitors(t *testing.T) (end func()) {
	t.Helper()
	var all []*exec.Cmd
	end = func() {
		for _, cmd := range all {
			_ = cmd.Process.Kill() // it runs
			_ = cmd.Wait()         // returns an error, because it was killed
		}
		all = nil
	}
	t.Cleanup(func() { end() })
	for range 2 * runtime.NumCPU() {
		cmd := exec.Command("sh", "-c", "while :; do :; done")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		all = append(all, cmd)
	}
	return end
}

// TestLogStalls connects a gateway's standard error to a pipe that nobody reads, and in a second
// run to one whose reader goes away. The gateway must serve, recover from the loss of its token,
// and exit at SIGTERM.
func TestLogStalls(t *testing.T) {
	t.Parallel()
	g, l := newInstance(t, binary), newLedger(newRandom(t))
	reader := g.pipe(t)
	g.start(t)
	signers, changers := callerCounts()
	l.start(t, g.env, signers, changers)
	waitLong(t, "a pipe that is full", func() bool {
		n, err := unix.IoctlGetInt(int(reader.Fd()), unix.TIOCINQ)
		if err != nil {
			t.Fatal(err)
		}
		return n > 60_000 // of 65,536 bytes; a line may not fit into the rest
	})
	l.served(t, "while nobody reads the log")
	tokenDir, away := filepath.Join(g.dir, "softhsm", "tokens"), filepath.Join(g.dir, "away")
	if err := os.Rename(tokenDir, away); err != nil {
		t.Fatal(err)
	}
	waitLong(t, "the gateway to notice the loss of the token", func() bool {
		status, _, err := ask(g.env, "/ready")
		return err == nil && status == 503
	})
	if err := os.Rename(away, tokenDir); err != nil {
		t.Fatal(err)
	}
	l.served(t, "after the loss of the token, while nobody reads the log")
	l.stop()
	g.stop(t)
	reader.Close()

	reader = g.pipe(t)
	g.start(t)
	reader.Close()
	l.start(t, g.env, signers, changers)
	l.served(t, "after the log's reader has gone away")
	if failures := l.failures(temporary); failures != "" {
		t.Errorf("unexpected answers:\n%s", failures)
	}
	l.prove(t, g)
}

// pipe makes a pipe the standard error of the next start, and returns its other end.
func (g *instance) pipe(t *testing.T) (reader *os.File) {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		reader.Close()
		writer.Close()
	})
	g.stderr = writer
	return reader
}

// TestSlowGeneration lets the token take long for a key pair, as small HSMs do. Signatures and
// changes that need no key pair must continue, and the process must not end.
func TestSlowGeneration(t *testing.T) {
	t.Parallel()
	module, err := softhsm.Module()
	if err != nil {
		t.Fatal(err)
	}
	faults := rig.NewFaults(t, module)
	g := newInstance(t, binary, "SOFTHSM2_MODULE="+faults.Module)
	signers, changers := callerCounts()
	var specs []hsm.KeySpec // software keys for the callers that create keys
	for n := range signers + changers {
		specs = append(specs, hsm.EC_SM2)
		if n < signers {
			specs[n] = hsm.EC_P256
		}
	}
	l := newLedger(newRandom(t), specs...)
	g.start(t)
	l.start(t, g.env, signers, changers)
	waitLong(t, "each caller's key", func() bool { return l.count(signing, answered) > 16*signers })

	client := require[*kms.Client](t)(devgateway.SDK(g.env))
	calls := faults.Calls("C_GenerateKeyPair")
	faults.Hang("C_GenerateKeyPair", 1)
	defer faults.Release()
	created := make(chan error, 1)
	go func() {
		_, err := client.CreateKey(&kms.CreateKeyRequest{KeySpec: tea.String(string(hsm.RSA_4096))})
		created <- err
	}()
	waitLong(t, "the token to make a key pair", func() bool { return faults.Calls("C_GenerateKeyPair") > calls })
	began := time.Now()
	for time.Since(began) < long(8*time.Second, 75*time.Second) {
		l.served(t, "while the token makes a key pair")
	}
	faults.Release()
	if err := <-created; err != nil {
		if got, _ := errorCode(t, err); got != temporary {
			t.Errorf("CreateKey with a slow token: got %q (%v), want a key or %s", got, err, temporary)
		}
	}
	waitLong(t, "another key pair", func() bool {
		_, err := client.CreateKey(&kms.CreateKeyRequest{KeySpec: tea.String(string(hsm.RSA_2048))})
		return err == nil
	})
	if failures := l.failures(temporary); failures != "" || !g.runs() {
		t.Errorf("the gateway runs: %v, unexpected answers:\n%s", g.runs(), failures)
	}
	l.prove(t, g)
}
