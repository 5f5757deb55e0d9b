package keypair

import (
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

// A health holds the key versions that are known to be missing or failing.
type health struct {
	mu      sync.Mutex
	missing map[string]bool // KeyVersionIds; guarded by mu
	failing map[string]bool // guarded by mu
}

func (h *health) setMissing(missing map[string]bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.missing = missing
}

// tested records the result of a test signature, unless the error says nothing about the
// version.
func (h *health) tested(keyVersionId string, err error) {
	if err != nil && hsm.IsTransient(err) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.failing, keyVersionId)
	if err == nil {
		return
	}
	if h.failing == nil {
		h.failing = make(map[string]bool)
	}
	h.failing[keyVersionId] = true
}

// keep drops failures of versions that do not exist any more.
func (h *health) keep(there map[string]bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id := range h.failing {
		if !there[id] {
			delete(h.failing, id)
		}
	}
}

func (h *health) counts() (missing, failing int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.missing), len(h.failing)
}

// checkEvery is how often it is looked whether the private keys are there, and
// checkAgain how soon if the token was not there to tell.
const (
	checkEvery = time.Hour
	checkAgain = 10 * time.Second
)

// watchKeys looks for missing private keys, at once and then every hour, until
// ctx is done.
func (p *Pairs) watchKeys(ctx context.Context) {
	for ctx.Err() == nil {
		pause := checkEvery
		if err := p.checkKeys(); err != nil {
			pause = checkAgain
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

// tellMissing is how many missing private keys are named in the log each time.
const tellMissing = 10

// checkKeys asks of every version whether its private key is there. An error
// means that it cannot be told now.
func (p *Pairs) checkKeys() error {
	there, missing := make(map[string]bool), make(map[string]bool)
	for v := range p.cfg.Records.Now().Versions().All() {
		there[v.KeyVersionId] = true
		err := p.cfg.Backend.Has(v.Key)
		switch {
		case errors.Is(err, hsm.ErrNotFound):
			if !p.isRecorded(v) { // deleted meanwhile
				continue
			}
			missing[v.KeyVersionId] = true
			if len(missing) <= tellMissing {
				p.cfg.Logger.Error("a key version's private key is missing: it cannot sign; kmsgate doctor says what to do", "KeyId", v.KeyId, "KeyVersionId", v.KeyVersionId, "reason", err)
			}
		case err != nil:
			return err
		}
	}
	if n := len(missing); n > tellMissing {
		p.cfg.Logger.Error("private keys of more key versions are missing; kmsgate doctor names them all", "missing", n)
	}
	p.health.setMissing(missing)
	p.health.keep(there)
	return nil
}

func (p *Pairs) isRecorded(v store.KeyVersion) bool {
	_, err := p.cfg.Records.Now().Version(v.KeyId, v.KeyVersionId)
	return err == nil
}

// testPause is how many times as long as a test signature the next one waits, so
// that they leave nine tenths of a session to whoever has work for it.
const testPause = 9

// testKeys has every version that there is sign once, in no hurry: one that does
// not, or signs for another public key, is found before somebody needs it.
func (p *Pairs) testKeys(ctx context.Context) {
	failed := 0
	for v := range p.cfg.Records.Now().Versions().All() {
		err := p.testKey(ctx, v)
		if ctx.Err() != nil {
			return
		}
		if err == nil || !p.isRecorded(v) {
			continue
		}
		p.health.tested(v.KeyVersionId, err)
		if failed++; failed <= tellMissing {
			p.cfg.Logger.Error("a key version does not sign as it should; kmsgate doctor says what to do", "KeyId", v.KeyId, "KeyVersionId", v.KeyVersionId, "reason", err)
		}
	}
	if failed > tellMissing {
		p.cfg.Logger.Error("more key versions do not sign as they should; kmsgate doctor names them all", "failing", failed)
	}
}

// testKey has a version sign once, when the token can, and pauses.
func (p *Pairs) testKey(ctx context.Context, v store.KeyVersion) error {
	for ; ; sleep(ctx, checkAgain) {
		if ctx.Err() != nil || !p.isRecorded(v) {
			return ctx.Err()
		}
		if p.cfg.Backend.Health(ctx) != nil {
			continue
		}
		began := time.Now()
		_, err := p.testSignature(ctx, v.Key, hsm.Algorithms(v.Key.Spec)[0])
		// What is kept to sign faster is for those keys that are used.
		p.cfg.Backend.Forget(v.Key)
		if err != nil && hsm.IsTransient(err) {
			continue
		}
		sleep(ctx, testPause*time.Since(began))
		return err
	}
}

// Test makes count signatures with the key's algorithms in turn and verifies each. It
// returns how long they took, the shortest first. It stops at the first that fails.
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

// testTime is how long one test signature may take.
const testTime = 2500 * time.Millisecond

// testSignature signs a digest that no client can have wanted to be signed: it is
// of a text that begins with what it is for, and ends at random.
func (p *Pairs) testSignature(ctx context.Context, k hsm.Key, alg hsm.Algorithm) (time.Duration, error) {
	digest := sha256.Sum256([]byte("kmsgate test signature|" + rand.Text()))
	ctx, cancel := context.WithTimeout(ctx, testTime)
	defer cancel()
	began := time.Now()
	_, err := p.cfg.Backend.Sign(ctx, k, alg, digest[:]) // and the Route verifies it
	return time.Since(began), err
}

// Tested records the result of a test signature of a version, for Health. A nil error
// clears an earlier failure. A transient error says nothing about the version.
func (p *Pairs) Tested(keyVersionId string, err error) { p.health.tested(keyVersionId, err) }

// Health returns how many versions had no private key when Run last looked, and how many
// versions failed their last test signature.
func (p *Pairs) Health() (missing, failing int) { return p.health.counts() }

// Run carries out deletions every few seconds, looks for missing private keys every hour,
// and has every version sign once, until ctx is done.
func (p *Pairs) Run(ctx context.Context) {
	var running sync.WaitGroup
	running.Go(func() { every(ctx, p.CarryOutDeletions) })
	running.Go(func() { p.watchKeys(ctx) })
	running.Go(func() { p.testKeys(ctx) })
	running.Wait()
}
