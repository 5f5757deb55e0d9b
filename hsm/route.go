package hsm

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
)

// A Route is a Backend that distributes keys over two others. The KeySpec decides which of
// them makes a key; the same backend then uses it. A Route rejects arguments that [Check]
// rejects, and returns only signatures that verify with the key's public half.
type Route struct {
	Token  Backend // keys whose private half never leaves the token
	Sealed Backend // keys sealed by the token: EC_SM2, since no known token supports SM2DSA

	Logger *slog.Logger // logs each withheld signature; nil means slog.Default()
}

var _ Backend = Route{}

// NewRoute returns a Route that uses b for all keys and logs to logger. If b is a Route,
// NewRoute returns it unchanged, so that no signature is verified twice.
func NewRoute(b Backend, logger *slog.Logger) Route {
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

// signTries is how many signatures Sign requests from a working backend.
const signTries = 2

// Sign signs in the backend that holds k's private half, and verifies the signature with
// k.Public in the caller's goroutine. It withholds and logs a signature that does not verify.
// If the backend still works, Sign requests one more signature. If that does not verify either,
// the backend's key is not the recorded one, and the error is ErrNotFound.
func (r Route) Sign(ctx context.Context, k Key, alg Algorithm, digest []byte) ([]byte, error) {
	if err := Check(k.Spec, alg, digest); err != nil {
		return nil, err
	}
	b := r.backend(k)
	var bad error
	for range signTries {
		sig, err := b.Sign(ctx, k, alg, digest)
		if err != nil {
			return nil, err
		}
		if bad = verify(k, alg, digest, sig); bad == nil {
			return sig, nil
		}
		cmp.Or(r.Logger, slog.Default()).Error("signature withheld", "id", fmt.Sprintf("%x", k.ID), "err", bad)
		if err := b.Quarantine(ctx, k); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: the private key of %x does not match the recorded public key; "+
		"its signatures were withheld: %w", ErrNotFound, k.ID, bad)
}

// verify is like Verify but returns an error if sig is not k's.
func verify(k Key, alg Algorithm, digest, sig []byte) error {
	ok, err := Verify(k, alg, digest, sig)
	if err == nil && !ok {
		err = errors.New("the signature does not verify with the recorded public key")
	}
	return err
}

// Destroy calls Destroy of the backend that holds k's private half.
func (r Route) Destroy(ctx context.Context, k Key) error {
	return r.backend(k).Destroy(ctx, k)
}

// Has calls Has of the backend that holds k's private half.
func (r Route) Has(k Key) error { return r.backend(k).Has(k) }

// Forget calls Forget of the backend that holds k's private half.
func (r Route) Forget(k Key) { r.backend(k).Forget(k) }

// Quarantine calls Quarantine of the backend that holds k's private half.
func (r Route) Quarantine(ctx context.Context, k Key) error { return r.backend(k).Quarantine(ctx, k) }

// Health returns nil if both backends are healthy.
func (r Route) Health(ctx context.Context) error {
	return errors.Join(r.Token.Health(ctx), r.Sealed.Health(ctx))
}

// backend returns the backend that holds k's private half.
func (r Route) backend(k Key) Backend {
	if k.Sealed != nil {
		return r.Sealed
	}
	return r.Token
}

// SelfTest signs once with k in b and verifies the signature as a Route does. It finds a key
// that cannot sign, or that does not match k.Public, before anyone relies on the key.
func SelfTest(ctx context.Context, b Backend, k Key) error {
	digest := sha256.Sum256(k.ID)
	if _, err := NewRoute(b, nil).Sign(ctx, k, Algorithms(k.Spec)[0], digest[:]); err != nil {
		return fmt.Errorf("testing key version %x: %w", k.ID, err)
	}
	return nil
}
