package integration

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	kms "github.com/alibabacloud-go/kms-20160120/v3/client"
	"github.com/alibabacloud-go/tea/tea"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/integration/devgateway"
)

// The long tests take as long as they are told to, and have a go of a few seconds
// in every test run.
var (
	soak = flag.Duration("soak", 0, "how long each of the long tests goes on (0: a few seconds)")
	seed = flag.Uint64("seed", 0, "of the long tests' random choices (0: another one each time)")
)

// newRandom gives random choices that a failure's seed gives again.
func newRandom(t *testing.T) *rand.Rand {
	s := *seed
	if s == 0 {
		s = rand.Uint64()
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the random choices were those of -seed %d", s)
		}
	})
	return rand.New(rand.NewPCG(s, 0))
}

// soaked tells a long test when it is done: after rounds rounds, or after the time
// that it was given.
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

// A made is what a gateway has acknowledged.
type made struct {
	mu       sync.Mutex
	versions map[string]string // KeyVersionId → KeyId; guarded by mu
}

func (m *made) add(keyId, versionId string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.versions[versionId] = keyId
}

func (m *made) len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.versions)
}

// TestKilledAtAnyMoment kills a gateway at random moments: while it starts, logs in
// and reconciles, and while callers make keys of every kind and versions of them.
// It always starts again, in seconds; every version that was acknowledged is
// listed and signs, every one that is listed signs, and in the end the token has
// the objects of what is recorded and no more. Where its files are is up to
// TMPDIR: `make soak` has them on a disk.
func TestKilledAtAnyMoment(t *testing.T) {
	dir := t.TempDir() + "/gateway"
	random := newRandom(t)
	all := &made{versions: make(map[string]string)}
	kills, slowest := 0, time.Duration(0)
	began := time.Now()
	start(t, dir).Kill()
	first := time.Since(began) // makes keys, and is longer than any other
	for done := soaked(6); !done(); {
		for range random.IntN(3) {
			killStarting(t, dir, time.Duration(random.Int64N(int64(first))))
			kills++
		}
		began := time.Now()
		g := start(t, dir)
		slowest = max(slowest, time.Since(began))
		makeUntilKilled(t, g, all, random)
		kills++
	}
	g := start(t, dir)
	checkMade(t, g, all)
	if err := g.Stop(); err != nil {
		t.Error(err)
	}
	checkObjects(t, dir)
	t.Logf("%d kills, %d versions acknowledged, the slowest start took %v", kills, all.len(), slowest.Round(time.Millisecond))
	if slowest > 10*time.Second {
		t.Errorf("a start took %v", slowest)
	}
}

// killStarting kills a gateway so long after it was started.
func killStarting(t *testing.T, dir string, after time.Duration) {
	t.Helper()
	cmd := exec.Command(binary, "dev", "--dir", dir, "--listen", "127.0.0.1:0")
	cmd.Env = devgateway.Environment()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() }) // it may have ended
	err := cmd.Wait()
	if timer.Stop() {
		t.Fatalf("a gateway that was to be killed after %v ended before: %v", after, err)
	}
}

// makeUntilKilled makes keys and versions until the gateway is killed, which is
// when so many were made as it is drawn, and a random time later.
func makeUntilKilled(t *testing.T, g *devgateway.Gateway, all *made, random *rand.Rand) {
	t.Helper()
	var gone atomic.Bool
	var callers sync.WaitGroup
	specs := []hsm.KeySpec{hsm.EC_P256, hsm.EC_P256K, hsm.EC_SM2, hsm.RSA_2048}
	for i := range 8 {
		client, err := devgateway.SDK(g.Env)
		if err != nil {
			t.Fatal(err)
		}
		callers.Go(func() {
			for !gone.Load() {
				makeOne(client, specs[i%len(specs)], all)
			}
		})
	}
	enough := all.len() + 1 + random.IntN(20)
	waitFor(t, "keys to be made", func() bool { return all.len() >= enough })
	<-time.After(time.Duration(random.Int64N(int64(30 * time.Millisecond)))) // not to wait for anything: a moment drawn
	gone.Store(true)
	if err := g.Kill(); err != nil {
		t.Fatal(err)
	}
	callers.Wait()
}

// makeOne makes a key and a version more of it. That the gateway is gone, or has
// too much to do, is no news.
func makeOne(client *kms.Client, spec hsm.KeySpec, all *made) {
	key, err := client.CreateKey(&kms.CreateKeyRequest{KeySpec: tea.String(string(spec))})
	if err != nil {
		return
	}
	keyId := key.Body.KeyMetadata.KeyId
	if listed, err := client.ListKeyVersions(&kms.ListKeyVersionsRequest{KeyId: keyId}); err == nil {
		for _, v := range listed.Body.KeyVersions.KeyVersion {
			all.add(*keyId, *v.KeyVersionId)
		}
	}
	if version, err := client.CreateKeyVersion(&kms.CreateKeyVersionRequest{KeyId: keyId}); err == nil {
		all.add(*keyId, *version.Body.KeyVersion.KeyVersionId)
	}
}

// checkMade has every version that is listed sign, and looks for all that were
// acknowledged among them.
func checkMade(t *testing.T, g *devgateway.Gateway, all *made) {
	t.Helper()
	client, err := devgateway.SDK(g.Env)
	if err != nil {
		t.Fatal(err)
	}
	listed := allVersions(t, client)
	specs := make(map[string]hsm.KeySpec)
	for versionId, keyId := range listed {
		if specs[keyId] == "" {
			described := must[*kms.DescribeKeyResponse](t)(client.DescribeKey(&kms.DescribeKeyRequest{KeyId: &keyId}))
			specs[keyId] = hsm.KeySpec(tea.StringValue(described.Body.KeyMetadata.KeySpec))
		}
		alg := hsm.Algorithms(specs[keyId])[0]
		if err := signsWell(newSDK{client}, keyId, versionId, alg); err != nil {
			t.Errorf("version %s of key %s: %v", versionId, keyId, err)
		}
	}
	for versionId, keyId := range all.versions {
		if listed[versionId] != keyId {
			t.Errorf("version %s of key %s was acknowledged and is not listed", versionId, keyId)
		}
	}
}

// signsWell has a version sign, and the signature checked with the public key that
// the gateway gives.
func signsWell(c newSDK, keyId, versionId string, alg hsm.Algorithm) error {
	digest := make([]byte, hsm.DigestSize)
	digest[0] = 1
	_, _, sig, err := c.sign(keyId, versionId, alg, digest)
	if err != nil {
		return fmt.Errorf("signing: %w", err)
	}
	ok, err := c.verify(keyId, versionId, alg, digest, sig)
	if err == nil && !ok {
		err = errors.New("the signature does not verify")
	}
	return err
}
