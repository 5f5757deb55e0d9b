package keypair

import (
	"context"
	"errors"
	"fmt"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// Prove returns nil if the backend holds the private half of a version's recorded public key. The
// proof is a signature that this process has verified with that public key. If there is none yet,
// Prove has the version make a test signature, for at most 2.5 s. If a signature failed within the last
// ten seconds, it does not try again.
//
// The error is kms.ErrKeyUnavailable if the version's last signature failed or its private key is
// missing. It is transient, see hsm.IsTransient, if the backend cannot tell.
func (p *Pairs) Prove(ctx context.Context, v store.KeyVersion) error {
	if p.health.isProven(v) {
		return nil
	}
	if p.health.failedLately(v) {
		return errBroken
	}
	_, err := p.testSignature(ctx, v.Key, hsm.Algorithms(v.Key.Spec)[0])
	p.health.record(v, err)
	switch {
	case err == nil:
		return nil
	case !hsm.IsTransient(err):
		return unavailable(err)
	case p.health.isBroken(v):
		return errBroken
	}
	return err
}

// Signed records the result of a client's signature with a version, and returns the error that the
// client receives: kms.ErrKeyUnavailable if the version is known to fail, and otherwise err.
func (p *Pairs) Signed(v store.KeyVersion, err error) error {
	switch {
	case err == nil:
		p.health.record(v, nil)
		p.Used(v)
	case errors.Is(err, hsm.ErrNotFound):
		p.health.record(v, err)
	}
	if err != nil && p.health.isBroken(v) {
		return unavailable(err)
	}
	return err
}

// errBroken is the error for a version that is known to fail, and that was not tried again.
var errBroken = unavailable(errors.New("the version's last signature failed, or its private key is missing; run kmsgate doctor"))

// unavailable returns kms.ErrKeyUnavailable with its cause.
func unavailable(err error) error { return fmt.Errorf("%w (%w)", kms.ErrKeyUnavailable, err) }
