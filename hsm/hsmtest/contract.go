// Package hsmtest tests every hsm.Backend, including hsm.Route, against one contract, and every
// hsm.Randomizer and every hsm.AuditKeeper against another. Its Fake passes all three.
package hsmtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/kmsgate/kmsgate/hsm"
)

// TestBackend tests the contract of a Route, or of a backend behind one: it uses b through
// hsm.NewRoute. It makes keys of the given specs in b and destroys them.
func TestBackend(t *testing.T, b hsm.Backend, specs ...hsm.KeySpec) {
	t.Helper()
	b = hsm.NewRoute(b, nil)
	t.Run("Health", func(t *testing.T) {
		if err := b.Health(t.Context()); err != nil {
			t.Errorf("Health: %v", err)
		}
	})
	t.Run("UnknownKeySpec", func(t *testing.T) {
		if _, err := b.Generate(t.Context(), "RSA_1024", newID()); !errors.Is(err, hsm.ErrKeySpec) {
			t.Errorf("Generate: %v, want ErrKeySpec", err)
		}
	})
	for _, spec := range specs {
		t.Run(string(spec), func(t *testing.T) { testSpec(t, b, spec) })
	}
}

func testSpec(t *testing.T, b hsm.Backend, spec hsm.KeySpec) {
	ctx := t.Context()
	id := newID()
	key, err := b.Generate(ctx, spec, id)
	if err != nil {
		t.Fatalf("Generate: %v", err)
	}
	if !bytes.Equal(key.ID, id) || key.Spec != spec {
		t.Errorf("Generate returned ID %x and Spec %s, want %x and %s", key.ID, key.Spec, id, spec)
	}
	for _, alg := range hsm.Algorithms(spec) {
		t.Run(string(alg), func(t *testing.T) { testAlgorithm(t, b, key, alg) })
	}
	t.Run("Refused", func(t *testing.T) { testRefused(t, b, key) })
	t.Run("Cancelled", func(t *testing.T) {
		cancelled, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := b.Sign(cancelled, key, hsm.Algorithms(spec)[0], newDigest()); !errors.Is(err, context.Canceled) {
			t.Errorf("Sign with a cancelled context: %v, want context.Canceled", err)
		}
	})
	t.Run("Forgotten", func(t *testing.T) {
		b.Forget(key)
		if err := b.Has(key); err != nil {
			t.Errorf("Has: %v", err)
		}
		if _, err := b.Sign(ctx, key, hsm.Algorithms(spec)[0], newDigest()); err != nil {
			t.Errorf("Sign after Forget: %v", err)
		}
	})
	t.Run("Quarantined", func(t *testing.T) {
		for range 2 {
			if err := b.Quarantine(ctx, key); err != nil {
				t.Errorf("Quarantine: %v", err)
			}
		}
		if err := b.Has(key); err != nil {
			t.Errorf("Has: %v", err)
		}
		if _, err := b.Sign(ctx, key, hsm.Algorithms(spec)[0], newDigest()); err != nil {
			t.Errorf("Sign after Quarantine: %v", err)
		}
	})
	t.Run("Parallel", func(t *testing.T) { testParallel(t, b, key) })
	t.Run("Destroy", func(t *testing.T) { testDestroy(t, b, key) })
}

func testAlgorithm(t *testing.T, b hsm.Backend, key hsm.Key, alg hsm.Algorithm) {
	digest := newDigest()
	sig, err := b.Sign(t.Context(), key, alg, digest)
	if err != nil {
		t.Fatalf("Sign: %v", err)
	}
	for _, v := range []struct {
		name   string
		verify func(digest, sig []byte) (bool, error)
	}{
		{"hsm.Verify", func(digest, sig []byte) (bool, error) { return hsm.Verify(key, alg, digest, sig) }},
		{"openssl", func(digest, sig []byte) (bool, error) {
			return OpenSSLVerify(t.TempDir(), hsm.PublicKeyPEM(key.Public), alg, digest, sig)
		}},
	} {
		if ok, err := v.verify(digest, sig); err != nil || !ok {
			t.Errorf("%s: %v, %v for a good signature, want true", v.name, ok, err)
		}
		if ok, err := v.verify(flip(digest), sig); err != nil || ok {
			t.Errorf("%s: %v, %v for another digest, want false", v.name, ok, err)
		}
		if ok, err := v.verify(digest, flip(sig)); err != nil || ok {
			t.Errorf("%s: %v, %v for a flipped bit in the signature, want false", v.name, ok, err)
		}
	}
}

// testRefused requests signatures that b must refuse.
func testRefused(t *testing.T, b hsm.Backend, key hsm.Key) {
	ctx := t.Context()
	alg := hsm.Algorithms(key.Spec)[0]
	for _, n := range []int{0, 1, 20, 31, 33, 64} {
		if _, err := b.Sign(ctx, key, alg, make([]byte, n)); !errors.Is(err, hsm.ErrDigest) {
			t.Errorf("Sign of %d bytes: %v, want ErrDigest", n, err)
		}
	}
	for _, other := range []hsm.Algorithm{
		hsm.RSA_PSS_SHA_256, hsm.RSA_PKCS1_SHA_256, hsm.ECDSA_SHA_256, hsm.SM2DSA, "", "RSA_PSS_SHA_512",
	} {
		if hsm.Check(key.Spec, other, newDigest()) == nil {
			continue
		}
		if _, err := b.Sign(ctx, key, other, newDigest()); !errors.Is(err, hsm.ErrAlgorithm) {
			t.Errorf("Sign with %q: %v, want ErrAlgorithm", other, err)
		}
	}
	unknown := hsm.Key{ID: newID(), Spec: key.Spec, Public: key.Public}
	if _, err := b.Sign(ctx, unknown, alg, newDigest()); !errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("Sign with an unknown key: %v, want ErrNotFound", err)
	}
}

func testParallel(t *testing.T, b hsm.Backend, key hsm.Key) {
	alg := hsm.Algorithms(key.Spec)[0]
	errs := make(chan error, 64)
	var wg sync.WaitGroup
	for range cap(errs) {
		wg.Go(func() {
			digest := newDigest()
			sig, err := b.Sign(t.Context(), key, alg, digest)
			if err == nil {
				if ok, verr := hsm.Verify(key, alg, digest, sig); verr != nil || !ok {
					err = fmt.Errorf("verifying: %v, %w", ok, verr)
				}
			}
			errs <- err
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Errorf("one of 64 concurrent signatures: %v", err)
		}
	}
}

func testDestroy(t *testing.T, b hsm.Backend, key hsm.Key) {
	for range 2 {
		if err := b.Destroy(t.Context(), key); err != nil {
			t.Errorf("Destroy: %v", err)
		}
	}
	if key.Sealed != nil {
		return // the caller deletes the sealed half; the backend keeps nothing
	}
	if err := b.Has(key); !errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("Has of a destroyed key: %v, want ErrNotFound", err)
	}
	if _, err := b.Sign(t.Context(), key, hsm.Algorithms(key.Spec)[0], newDigest()); !errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("Sign with a destroyed key: %v, want ErrNotFound", err)
	}
	if err := b.Quarantine(t.Context(), key); err != nil {
		t.Errorf("Quarantine of a destroyed key by a working backend: %v, want nil", err)
	}
}

func newID() []byte { return random(16) }

func newDigest() []byte { return random(hsm.DigestSize) }

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// flip returns a copy of b with the lowest bit of the last byte flipped.
func flip(b []byte) []byte {
	b = bytes.Clone(b)
	b[len(b)-1] ^= 1
	return b
}
