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

// A versionSet is the set of versions that a gateway has acknowledged. It is safe for concurrent
// use.
type versionSet struct {
	mu       sync.Mutex
	versions map[string]string // KeyVersionId → KeyId; guarded by mu
}

func (v *versionSet) add(keyId, versionId string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.versions[versionId] = keyId
}

func (v *versionSet) len() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.versions)
}

// TestKilledAtAnyMoment kills a gateway at random moments: while it starts, logs in and reconciles,
// and while callers create keys of several KeySpecs and versions of them. The gateway must always
// start again within 10 s. At the end, it must list every acknowledged version, every listed
// version must sign, and the token must have the recorded objects and no more. TMPDIR selects the
// disk: `make soak` sets it to a real one.
func TestKilledAtAnyMoment(t *testing.T) {
	dir := t.TempDir() + "/gateway"
	random := newRandom(t)
	all := &versionSet{versions: make(map[string]string)}
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
		createUntilKilled(t, g, all, random)
		kills++
	}
	g := start(t, dir)
	checkVersions(t, g, all)
	if err := g.Stop(); err != nil {
		t.Error(err)
	}
	checkObjects(t, dir)
	t.Logf("%d kills, %d versions acknowledged, the slowest start took %v",
		kills, all.len(), slowest.Round(time.Millisecond))
	if slowest > 10*time.Second {
		t.Errorf("the slowest start took %v, want at most 10 s", slowest)
	}
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

// createUntilKilled creates keys and versions with 8 callers, and kills the gateway after a random
// number of versions and a random delay.
func createUntilKilled(t *testing.T, g *devgateway.Gateway, all *versionSet, random *rand.Rand) {
	t.Helper()
	var killed atomic.Bool
	var callers sync.WaitGroup
	specs := []hsm.KeySpec{hsm.EC_P256, hsm.EC_P256K, hsm.EC_SM2, hsm.RSA_2048}
	for i := range 8 {
		client, err := devgateway.SDK(g.Env)
		if err != nil {
			t.Fatal(err)
		}
		callers.Go(func() {
			for !killed.Load() {
				createOne(client, specs[i%len(specs)], all)
			}
		})
	}
	want := all.len() + 1 + random.IntN(20)
	waitFor(t, "new keys", func() bool { return all.len() >= want })
	<-time.After(time.Duration(random.Int64N(int64(30 * time.Millisecond)))) // so that the kill hits any moment
	killed.Store(true)
	if err := g.Kill(); err != nil {
		t.Fatal(err)
	}
	callers.Wait()
}

// createOne creates a key and a second version of it. It ignores errors, because the gateway may
// have been killed or may be overloaded.
func createOne(client *kms.Client, spec hsm.KeySpec, all *versionSet) {
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

// checkVersions checks that every listed version signs, and that every acknowledged version is
// listed.
func checkVersions(t *testing.T, g *devgateway.Gateway, all *versionSet) {
	t.Helper()
	client, err := devgateway.SDK(g.Env)
	if err != nil {
		t.Fatal(err)
	}
	listed := allVersions(t, client)
	specs := make(map[string]hsm.KeySpec)
	for versionId, keyId := range listed {
		if specs[keyId] == "" {
			described := require[*kms.DescribeKeyResponse](t)(client.DescribeKey(&kms.DescribeKeyRequest{KeyId: &keyId}))
			specs[keyId] = hsm.KeySpec(tea.StringValue(described.Body.KeyMetadata.KeySpec))
		}
		alg := hsm.Algorithms(specs[keyId])[0]
		if err := signAndVerify(newSDK{client}, keyId, versionId, alg); err != nil {
			t.Errorf("version %s of key %s: %v", versionId, keyId, err)
		}
	}
	for versionId, keyId := range all.versions {
		if listed[versionId] != keyId {
			t.Errorf("version %s of key %s was acknowledged but is not listed", versionId, keyId)
		}
	}
}

// signAndVerify signs with a version and verifies the signature with AsymmetricVerify.
func signAndVerify(c newSDK, keyId, versionId string, alg hsm.Algorithm) error {
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
