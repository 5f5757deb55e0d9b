package integration

import (
	"flag"
	"math/rand/v2"
	"os/exec"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/integration/devgateway"
)

// Long tests run for the time that -soak sets. Without it, they run for a few seconds.
var (
	soak = flag.Duration("soak", 0, "how long each of the long tests runs (0: a few seconds)")
	seed = flag.Uint64("seed", 0, "seed of the long tests' random choices (0: a different one each time)")
)

// newRandom returns a source of random choices. A test that fails logs its seed, which repeats
// them.
func newRandom(t *testing.T) *rand.Rand {
	s := *seed
	if s == 0 {
		s = rand.Uint64()
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("repeat the random choices with -seed %d", s)
		}
	})
	return rand.New(rand.NewPCG(s, 0))
}

// soaked returns a function that reports whether a long test is done: when -soak has passed, or
// without -soak after a number of rounds.
func soaked(rounds int) func() bool {
	began, n := time.Now(), 0
	return func() bool {
		n++
		if *soak > 0 {
			return time.Since(began) > *soak
		}
		return n > rounds
	}
}

// TestKilledAtAnyMoment kills a gateway at random moments: while it starts, logs in and reconciles,
// and while callers create keys of several KeySpecs and change them. The gateway must always start
// again within 10 s. At the end, it must have every acknowledged change, every listed version must
// sign, and the token must have the recorded objects and no more. TMPDIR selects the disk: `make
// soak` sets it to a real one.
func TestKilledAtAnyMoment(t *testing.T) {
	dir := t.TempDir() + "/gateway"
	random := newRandom(t)
	l := newLedger(random, hsm.EC_P256, hsm.EC_P256K, hsm.EC_SM2, hsm.RSA_2048)
	kills, slowest := 0, time.Duration(0)
	began := time.Now()
	start(t, dir).Kill()
	first := time.Since(began) // the longest start, because it creates keys
	for done := soaked(6); !done(); {
		for range random.IntN(3) {
			killStarting(t, dir, time.Duration(random.Int64N(int64(first))))
			kills++
		}
		began := time.Now()
		g := start(t, dir)
		slowest = max(slowest, time.Since(began))
		changeUntilKilled(t, g, l, random)
		kills++
	}
	g := start(t, dir)
	l.check(t, g.Env)
	if err := g.Stop(); err != nil {
		t.Error(err)
	}
	checkObjects(t, dir)
	t.Logf("%d kills, %d changes acknowledged, the slowest start took %v",
		kills, l.count(changing, answered), slowest.Round(time.Millisecond))
}

// killStarting starts a gateway and kills it after a delay.
func killStarting(t *testing.T, dir string, after time.Duration) {
	t.Helper()
	cmd := exec.Command(binary, "dev", "--dir", dir, "--listen", "127.0.0.1:0")
	cmd.Env = devgateway.Environment()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() }) // it may have exited
	err := cmd.Wait()
	if timer.Stop() {
		t.Fatalf("kmsgate dev exited before it was killed after %v: %v", after, err)
	}
}

// changeUntilKilled lets 8 callers of a ledger create and change keys, and kills the gateway after a
// random number of changes and a random delay.
func changeUntilKilled(t *testing.T, g *devgateway.Gateway, l *ledger, random *rand.Rand) {
	t.Helper()
	l.start(t, g.Env, 0, 8)
	want := l.count(changing, answered) + 1 + random.IntN(30)
	waitFor(t, "changes", func() bool { return l.count(changing, answered) >= want })
	<-time.After(time.Duration(random.Int64N(int64(30 * time.Millisecond)))) // so that the kill hits any moment
	l.stopping.Store(true)
	if err := g.Kill(); err != nil {
		t.Fatal(err)
	}
	l.stop()
}
