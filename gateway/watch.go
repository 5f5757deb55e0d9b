package gateway

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// A watch is what is known of key versions that are not as they should be.
type watch struct {
	mu      sync.Mutex
	missing map[string]bool // KeyVersionIds; guarded by mu
	failing map[string]bool // guarded by mu
}

func (w *watch) setMissing(missing map[string]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.missing = missing
}

// tested takes in what a test signature of a version came to, if that says
// anything about the version.
func (w *watch) tested(keyVersionId string, err error) {
	if err != nil && hsm.IsTransient(err) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.failing, keyVersionId)
	if err == nil {
		return
	}
	if w.failing == nil {
		w.failing = make(map[string]bool)
	}
	w.failing[keyVersionId] = true
}

// keep forgets failures of versions that are not there any more.
func (w *watch) keep(there map[string]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id := range w.failing {
		if !there[id] {
			delete(w.failing, id)
		}
	}
}

func (w *watch) counts() (missing, failing int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.missing), len(w.failing)
}

// checkEvery is how often it is looked whether the private keys are there, and
// checkAgain how soon if the token was not there to tell.
const (
	checkEvery = time.Hour
	checkAgain = 10 * time.Second
)

// watchKeys looks for missing private keys, at once and then every hour, until
// ctx is done.
func (s *Server) watchKeys(ctx context.Context) {
	for ctx.Err() == nil {
		pause := checkEvery
		if err := s.checkKeys(); err != nil {
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
func (s *Server) checkKeys() error {
	there, missing := make(map[string]bool), make(map[string]bool)
	for v := range s.Store.Now().Versions().All() {
		there[v.KeyVersionId] = true
		err := s.Backend.Has(v.Key)
		switch {
		case errors.Is(err, hsm.ErrNotFound):
			if !s.isRecorded(v) { // deleted meanwhile
				continue
			}
			missing[v.KeyVersionId] = true
			if len(missing) <= tellMissing {
				s.Logger.Error("a key version's private key is missing: it cannot sign; kmsgate doctor says what to do", "KeyId", v.KeyId, "KeyVersionId", v.KeyVersionId, "reason", err)
			}
		case err != nil:
			return err
		}
	}
	if n := len(missing); n > tellMissing {
		s.Logger.Error("private keys of more key versions are missing; kmsgate doctor names them all", "missing", n)
	}
	s.watch.setMissing(missing)
	s.watch.keep(there)
	return nil
}

func (s *Server) isRecorded(v store.KeyVersion) bool {
	_, err := s.Store.Now().Version(v.KeyId, v.KeyVersionId)
	return err == nil
}

// testPause is how many times as long as a test signature the next one waits, so
// that they leave nine tenths of a session to whoever has work for it.
const testPause = 9

// testKeys has every version that there is sign once, in no hurry: one that does
// not, or signs for another public key, is found before somebody needs it.
func (s *Server) testKeys(ctx context.Context) {
	failed := 0
	for v := range s.Store.Now().Versions().All() {
		err := s.testKey(ctx, v)
		if ctx.Err() != nil {
			return
		}
		if err == nil || !s.isRecorded(v) {
			continue
		}
		s.watch.tested(v.KeyVersionId, err)
		if failed++; failed <= tellMissing {
			s.Logger.Error("a key version does not sign as it should; kmsgate doctor says what to do", "KeyId", v.KeyId, "KeyVersionId", v.KeyVersionId, "reason", err)
		}
	}
	if failed > tellMissing {
		s.Logger.Error("more key versions do not sign as they should; kmsgate doctor names them all", "failing", failed)
	}
}

// testKey has a version sign once, when the token can, and pauses.
func (s *Server) testKey(ctx context.Context, v store.KeyVersion) error {
	for ; ; sleep(ctx, checkAgain) {
		if ctx.Err() != nil || !s.isRecorded(v) {
			return ctx.Err()
		}
		if s.Backend.Health(ctx) != nil {
			continue
		}
		began := time.Now()
		_, err := s.testSignature(ctx, v.Key, hsm.Algorithms(v.Key.Spec)[0])
		// What is kept to sign faster is for those keys that are used.
		s.Backend.Forget(v.Key)
		if err != nil && hsm.IsTransient(err) {
			continue
		}
		sleep(ctx, testPause*time.Since(began))
		return err
	}
}

// forgetKey drops what is kept of a key's private halves outside of where they
// live.
func (s *Server) forgetKey(keyId string) {
	for _, v := range s.Store.Now().VersionsOf(keyId) {
		s.Backend.Forget(v.Key)
	}
}
