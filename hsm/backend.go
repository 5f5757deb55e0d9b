package hsm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
)

// A Route is a Backend made of two: keys are made where their KeySpec belongs,
// and used where they were made.
type Route struct {
	Token  Backend // keys whose private half never leaves the token
	Sealed Backend // keys sealed by the token: EC_SM2, which no token signs as SM2DSA
}

var _ Backend = Route{}

// Generate makes EC_SM2 keys in r.Sealed and all others in r.Token.
func (r Route) Generate(ctx context.Context, spec KeySpec, id []byte) (Key, error) {
	if spec == EC_SM2 {
		return r.Sealed.Generate(ctx, spec, id)
	}
	return r.Token.Generate(ctx, spec, id)
}

// Sign signs where k's private half is.
func (r Route) Sign(ctx context.Context, k Key, alg Algorithm, digest []byte) ([]byte, error) {
	return r.home(k).Sign(ctx, k, alg, digest)
}

// Destroy destroys k where its private half is.
func (r Route) Destroy(ctx context.Context, k Key) error {
	return r.home(k).Destroy(ctx, k)
}

// Has asks where k's private half would be.
func (r Route) Has(k Key) error { return r.home(k).Has(k) }

// Forget tells where k's private half is.
func (r Route) Forget(k Key) { r.home(k).Forget(k) }

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

// SelfTest has b make one signature with k and checks it, so that a key that
// cannot sign, or signs for another public key, is found before anyone relies
// on it.
func SelfTest(ctx context.Context, b Backend, k Key) error {
	alg := Algorithms(k.Spec)[0]
	digest := sha256.Sum256(k.ID)
	sig, err := b.Sign(ctx, k, alg, digest[:])
	if err != nil {
		return fmt.Errorf("testing key version %x: %w", k.ID, err)
	}
	ok, err := Verify(k, alg, digest[:], sig)
	if err != nil {
		return fmt.Errorf("testing key version %x: %w", k.ID, err)
	}
	if !ok {
		return fmt.Errorf("testing key version %x: its signature does not verify with its public key", k.ID)
	}
	return nil
}
