package keypair

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// A health holds which key versions are known to sign, to be missing or to fail.
type health struct {
	// proven maps a KeyVersionId to the public key, a []byte, for which the last signature of the
	// version in this process was valid. A version in missing or failing is not in it.
	proven sync.Map

	mu      sync.Mutex           // guards the maps; held while proven changes
	missing map[string]bool      // by KeyVersionId: the token has no private key
	failing map[string]time.Time // by KeyVersionId: when the last signature failed
}

func (h *health) setMissing(missing map[string]bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.missing = missing
	for id := range missing {
		h.proven.Delete(id)
	}
}

// isProven reports whether the last signature of a version was valid for its recorded public key.
func (h *health) isProven(v store.KeyVersion) bool {
	public, ok := h.proven.Load(v.KeyVersionId)
	return ok && bytes.Equal(public.([]byte), v.Key.Public)
}

// isBroken reports whether a version is known to be missing or to fail.
func (h *health) isBroken(v store.KeyVersion) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, failing := h.failing[v.KeyVersionId]
	return failing || h.missing[v.KeyVersionId]
}

// failedLately reports whether the last signature of a version failed within retryInterval.
func (h *health) failedLately(v store.KeyVersion) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	failed, ok := h.failing[v.KeyVersionId]
	return ok && time.Since(failed) < retryInterval
}

// record records the result of a signature, which a Route has verified. It ignores a transient
// error, which says nothing about the version.
func (h *health) record(v store.KeyVersion, err error) {
	if err != nil && hsm.IsTransient(err) || err == nil && h.isProven(v) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		delete(h.missing, v.KeyVersionId)
		delete(h.failing, v.KeyVersionId)
		h.proven.Store(v.KeyVersionId, v.Key.Public)
		return
	}
	h.proven.Delete(v.KeyVersionId)
	if h.failing == nil {
		h.failing = make(map[string]time.Time)
	}
	h.failing[v.KeyVersionId] = time.Now()
}

// prune drops what is known of versions that no longer exist.
func (h *health) prune(existing map[string]bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id := range h.failing {
		if !existing[id] {
			delete(h.failing, id)
		}
	}
	h.proven.Range(func(id, _ any) bool {
		if !existing[id.(string)] {
			h.proven.Delete(id)
		}
		return true
	})
}

func (h *health) counts() (missing, failing int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.missing), len(h.failing)
}

const (
	checkInterval = time.Hour        // between checks for missing private keys
	retryInterval = 10 * time.Second // until the next attempt if the token is unavailable, or a version fails
)

// watchKeys checks for missing private keys at once and then every hour, until ctx is done.
func watchKeys(ctx context.Context, p *Pairs) {
	for ctx.Err() == nil {
		pause := checkInterval
		if err := p.checkKeys(); err != nil {
			pause = retryInterval
		}
		sleep(ctx, pause)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// maxNamed is how many key versions each round names in the log.
const maxNamed = 10

// checkKeys checks whether the private key of every version is in the token. It returns an error if
// the token cannot answer.
func (p *Pairs) checkKeys() error {
	existing, missing := make(map[string]bool), make(map[string]bool)
	var named []string
	for v := range p.cfg.Records.Now().Versions().All() {
		existing[v.KeyVersionId] = true
		err := p.cfg.Backend.Has(v.Key)
		switch {
		case errors.Is(err, hsm.ErrNotFound):
			if !isRecorded(p, v) { // deleted since the loop began
				continue
			}
			missing[v.KeyVersionId] = true
			if len(named) < maxNamed {
				named = append(named, v.KeyId+"/"+v.KeyVersionId)
			}
		case err != nil:
			return err
		}
	}
	if n := len(missing); n > 0 {
		p.cfg.Logger.Error("key versions cannot sign: their private keys are missing (run kmsgate doctor to list them all)",
			"missing", n, "versions", named)
	}
	p.health.setMissing(missing)
	p.health.prune(existing)
	return nil
}

func isRecorded(p *Pairs, v store.KeyVersion) bool {
	_, err := p.cfg.Records.Now().Version(v.KeyId, v.KeyVersionId)
	return err == nil
}

// testPause is the pause after a test signature, as a multiple of the time that the signature took.
// The pauses leave nine tenths of a session to clients.
const testPause = 9

// testKeys has every version sign once, slowly. It finds versions that cannot sign, or that sign
// for another public key, before a client needs them.
func (p *Pairs) testKeys(ctx context.Context) {
	failed := 0
	var named []string
	for v := range p.cfg.Records.Now().Versions().All() {
		err := p.testKey(ctx, v)
		if ctx.Err() != nil {
			return
		}
		if !isRecorded(p, v) {
			continue
		}
		p.health.record(v, err)
		if err == nil {
			continue
		}
		if failed++; failed <= maxNamed {
			p.cfg.Logger.Error("a key version failed its test signature (run kmsgate doctor)",
				"KeyId", v.KeyId, "KeyVersionId", v.KeyVersionId, "err", err)
			named = append(named, v.KeyId+"/"+v.KeyVersionId)
		}
	}
	if failed > 1 { // the log has one line a second for a reason, so it may lack some of these
		p.cfg.Logger.Error("key versions failed their test signatures (run kmsgate doctor to list them all)",
			"failing", failed, "versions", named)
	}
}

// testKey has a version sign once, as soon as the token can, and then pauses.
func (p *Pairs) testKey(ctx context.Context, v store.KeyVersion) error {
	for ; ; sleep(ctx, retryInterval) {
		if ctx.Err() != nil || !isRecorded(p, v) {
			return ctx.Err()
		}
		if p.cfg.Backend.Health(ctx) != nil {
			continue
		}
		began := time.Now()
		_, err := p.testSignature(ctx, v.Key, hsm.Algorithms(v.Key.Spec)[0])
		// The backend caches private halves to sign faster. The cache is for keys that clients use.
		p.cfg.Backend.Forget(v.Key)
		if err != nil && hsm.IsTransient(err) {
			continue
		}
		sleep(ctx, testPause*time.Since(began))
		return err
	}
}

// Test makes count signatures with the key's algorithms in turn and verifies each. It returns the
// times that they took, shortest first. It stops at the first failure and returns its error.
func (p *Pairs) Test(ctx context.Context, k hsm.Key, count int) ([]time.Duration, error) {
	algorithms := hsm.Algorithms(k.Spec)
	times := make([]time.Duration, 0, count)
	for i := range count {
		took, err := p.testSignature(ctx, k, algorithms[i%len(algorithms)])
		if err != nil {
			return nil, err
		}
		times = append(times, took)
	}
	slices.Sort(times)
	return times, nil
}

// testTimeout limits how long one test signature may take.
const testTimeout = 2500 * time.Millisecond

// testSignature makes a signature and returns the time that it took. The digest is that of a text
// that states its purpose and ends in random characters, so no client can have a use for the
// signature.
func (p *Pairs) testSignature(ctx context.Context, k hsm.Key, alg hsm.Algorithm) (time.Duration, error) {
	digest := sha256.Sum256([]byte("kmsgate test signature|" + rand.Text()))
	ctx, cancel := context.WithTimeout(ctx, testTimeout)
	defer cancel()
	began := time.Now()
	_, err := p.cfg.Backend.Sign(ctx, k, alg, digest[:]) // the Route verifies the signature
	return time.Since(began), err
}

// RecordTest records the result of a test signature of a version, for Health and Prove. A nil error
// clears an earlier failure. A transient error changes nothing, because it says nothing about the
// version.
func (p *Pairs) RecordTest(v store.KeyVersion, err error) { p.health.record(v, err) }

// Health returns the number of versions whose private key was missing when Run last checked, and
// the number of versions whose last signature failed. A version that has signed since is in neither.
func (p *Pairs) Health() (missing, failing int) { return p.health.counts() }

// Run carries out deletions every ten seconds, checks for missing private keys every hour, and has
// every version sign once. It returns when ctx is done.
func (p *Pairs) Run(ctx context.Context) {
	var running sync.WaitGroup
	running.Go(func() { poll(ctx, p.CarryOutDeletions) })
	running.Go(func() { watchKeys(ctx, p) })
	running.Go(func() { p.testKeys(ctx) })
	running.Wait()
}
