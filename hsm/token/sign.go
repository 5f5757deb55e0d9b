package token

import (
	"context"
	"fmt"
	"slices"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/token/internal/p11"
)

// A mechanism describes how a token makes the signatures of one Algorithm.
type mechanism struct {
	id     uint
	params []byte
	input  func(digest []byte) []byte
	output func(raw []byte) ([]byte, error)
}

// mechanisms are the mechanisms of the Algorithms that tokens support. No known token
// supports SM2DSA.
var mechanisms = map[hsm.Algorithm]mechanism{
	hsm.RSA_PSS_SHA_256: {
		id:     pkcs11.CKM_RSA_PKCS_PSS,
		params: pkcs11.NewPSSParams(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, hsm.DigestSize),
		input:  plainDigest,
		output: rawSignature,
	},
	hsm.RSA_PKCS1_SHA_256: {id: pkcs11.CKM_RSA_PKCS, input: digestInfo, output: rawSignature},
	hsm.ECDSA_SHA_256:     {id: pkcs11.CKM_ECDSA, input: plainDigest, output: hsm.MarshalSignature},
}

func plainDigest(digest []byte) []byte { return digest }

func rawSignature(raw []byte) ([]byte, error) { return raw, nil }

// digestInfo prepends the DER of DigestInfo to a SHA-256 digest (RFC 8017,
// section 9.2, note 1). CKM_RSA_PKCS pads its input but does not add the DigestInfo.
func digestInfo(digest []byte) []byte {
	prefix := []byte{
		0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20,
	}
	return slices.Concat(prefix, digest)
}

// Sign signs digest in the token. It does not verify the signature: a Route does that in
// the caller's goroutine, because sessions are scarce.
func (t *Token) Sign(ctx context.Context, k hsm.Key, alg hsm.Algorithm, digest []byte) ([]byte, error) {
	return sign(ctx, t, labelKey, k, alg, digest)
}

// sign signs with a key that is for a use.
func sign(ctx context.Context, t *Token, use string, k hsm.Key, alg hsm.Algorithm, digest []byte) ([]byte, error) {
	m, ok := mechanisms[alg]
	if !ok {
		return nil, fmt.Errorf("%w: a token cannot hold %s keys", hsm.ErrNotFound, k.Spec)
	}
	raw, err := run(ctx, t, t.jobs, func(s *session) ([]byte, error) { return s.signWith(use, k.ID, m, digest) })
	if err != nil {
		return nil, err
	}
	if sig, err := m.output(raw); err == nil {
		return sig, nil
	}
	return raw, nil // it has a wrong length, so the Route's verification fails
}

// Quarantine marks k's handle as stale, so that the next signature searches for the key, and
// drops k's session copy. It returns nil if the token makes a good signature with its canary
// key.
func (t *Token) Quarantine(ctx context.Context, k hsm.Key) error {
	return quarantine(ctx, t, labelKey, k)
}

func quarantine(ctx context.Context, t *Token, use string, k hsm.Key) error {
	if c := t.current.Load(); c != nil {
		if o := c.table(use, k.ID).get(k.ID); o != nil {
			o.stale.Store(true)
			c.copies.drop(o)
		}
	}
	return t.canary(ctx, t.jobs)
}

// check returns an error unless sig is k's signature of digest.
func check(k hsm.Key, alg hsm.Algorithm, digest, sig []byte) error {
	ok, err := hsm.Verify(k, alg, digest, sig)
	if err != nil {
		return fmt.Errorf("verifying a signature of %x: %w", k.ID, err)
	}
	if !ok {
		return fmt.Errorf("the token's signature of %x does not verify with the recorded public key", k.ID)
	}
	return nil
}

// signWith makes a raw signature with the private key that is for a use and has the CKA_ID id.
func (s *session) signWith(use string, id []byte, m mechanism, digest []byte) ([]byte, error) {
	o, err := s.locate(use, id)
	if err != nil {
		return nil, err
	}
	raw, final, err := s.conn.copies.sign(s.p11, o, m, digest)
	if final {
		return raw, err
	}
	raw, err = m.sign(s.p11, o.handle, digest)
	if p11.Is(err, p11.HandleErrors...) {
		// This does not mean that the key is gone: SoftHSM returns the same error if its files
		// are missing. The canary distinguishes the cases, and a second try searches for the key.
		o.stale.Store(true)
	}
	if err == nil {
		s.conn.copies.signedDirectly(o)
	}
	return raw, err
}

// sign makes a raw signature with the key that has the handle.
func (m mechanism) sign(s *p11.Session, handle pkcs11.ObjectHandle, digest []byte) ([]byte, error) {
	return s.Sign(handle, m.id, m.params, m.input(digest))
}
