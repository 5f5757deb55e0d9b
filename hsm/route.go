package hsm

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
)

// A Route is a Backend made of two. It makes a key where keys of its KeySpec
// belong, and uses a key where it was made. What [Check] refuses never reaches a
// backend, and no signature leaves that does not verify with the key's public half.
type Route struct {
	Token  Backend // keys whose private half never leaves the token
	Sealed Backend // keys sealed by the token: EC_SM2, which no token signs as SM2DSA

	Logger *slog.Logger // gets a line for each signature that is withheld; nil means slog.Default()
}

var _ Backend = Route{}

// Verified returns a Route whose keys are all in b, and which logs to logger. A Route is
// returned as it is, so that no signature is verified twice.
func Verified(b Backend, logger *slog.Logger) Route {
	if r, ok := b.(Route); ok {
		return r
	}
	return Route{Token: b, Sealed: b, Logger: logger}
}

// Generate makes EC_SM2 keys in r.Sealed and all others in r.Token.
func (r Route) Generate(ctx context.Context, spec KeySpec, id []byte) (Key, error) {
	if spec == EC_SM2 {
		return r.Sealed.Generate(ctx, spec, id)
	}
	return r.Token.Generate(ctx, spec, id)
}

// signTries is how many signatures Sign asks a working backend for.
const signTries = 2

// Sign signs where k's private half is, and verifies the signature with k.Public in
// the caller's goroutine. A signature that does not verify is withheld and logged. If
// the backend works in spite of it, Sign asks for another one; if that does not
// verify either, the backend's key is not the recorded one: ErrNotFound.
func (r Route) Sign(ctx context.Context, k Key, alg Algorithm, digest []byte) ([]byte, error) {
	if err := Check(k.Spec, alg, digest); err != nil {
		return nil, err
	}
	b := r.home(k)
	var bad error
	for range signTries {
		sig, err := b.Sign(ctx, k, alg, digest)
		if err != nil {
			return nil, err
		}
		if bad = verify(k, alg, digest, sig); bad == nil {
			return sig, nil
		}
		cmp.Or(r.Logger, slog.Default()).Error("a signature was withheld", "id", fmt.Sprintf("%x", k.ID), "reason", bad)
		if err := b.Quarantine(ctx, k); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: the private key of %x is not that of the recorded public key, so its signatures were withheld: %w",
		ErrNotFound, k.ID, bad)
}

// verify is Verify with an error for a signature that is not k's.
func verify(k Key, alg Algorithm, digest, sig []byte) error {
	ok, err := Verify(k, alg, digest, sig)
	if err == nil && !ok {
		err = errors.New("it does not verify with the recorded public key")
	}
	return err
}

// Destroy destroys k where its private half is.
func (r Route) Destroy(ctx context.Context, k Key) error {
	return r.home(k).Destroy(ctx, k)
}

// Has asks where k's private half would be.
func (r Route) Has(k Key) error { return r.home(k).Has(k) }

// Forget tells where k's private half is.
func (r Route) Forget(k Key) { r.home(k).Forget(k) }

// Quarantine tells where k's private half is.
func (r Route) Quarantine(ctx context.Context, k Key) error { return r.home(k).Quarantine(ctx, k) }

// Health reports nil if both backends are healthy.
func (r Route) Health(ctx context.Context) error {
	return errors.Join(r.Token.Health(ctx), r.Sealed.Health(ctx))
}

func (r Route) home(k Key) Backend {
	if k.Sealed != nil {
		return r.Sealed
	}
	return r.Token
}

// SelfTest has b make one signature with k and verifies it once, as a Route does, so
// that a key that cannot sign, or signs for another public key, is found before
// anyone relies on it.
func SelfTest(ctx context.Context, b Backend, k Key) error {
	digest := sha256.Sum256(k.ID)
	if _, err := Verified(b, nil).Sign(ctx, k, Algorithms(k.Spec)[0], digest[:]); err != nil {
		return fmt.Errorf("testing key version %x: %w", k.ID, err)
	}
	return nil
}
