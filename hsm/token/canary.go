package token

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/token/internal/p11"
)

// A canaryKey is a key pair in the token that signs nothing but a constant, to
// tell whether the token works. It is a token object like every signing key:
// when SoftHSM's files are gone, sessions can still be opened and searches
// still succeed, but nothing can be signed (measured).
type canaryKey struct {
	handle pkcs11.ObjectHandle
	alg    hsm.Algorithm
	halves []hsm.Key // the public halves: one, unless a kill left half a pair
}

var (
	canaryID     = bytes.Repeat([]byte{0xca}, idSize)
	canaryDigest = bytes.Repeat([]byte{0xca}, hsm.DigestSize)
)

// findCanary finds the canary key, or makes it: on P-256, or RSA for a token
// without curves. The token must be known to be ours by its sealing key: then one
// that has lost its canary is a good token still.
func (c *connection) findCanary(s *session, provision bool) error {
	found, err := findCanaries(s.p11, pkcs11.CKO_PRIVATE_KEY)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		// One that does not sign, as a kill may leave it, is replaced when the
		// operator has kmsgate make what is missing. Otherwise it means that the token
		// does not work.
		if c.canary, err = useCanary(s.p11, found); err == nil || !provision {
			return err
		}
		if err := s.p11.Renew(); err != nil {
			return err
		}
	}
	if !provision {
		s.conn.token.log.Warn("the token has lost the canary key, by which it is told that it works: making another one")
	}
	if err := makeCanary(s); err != nil {
		return fmt.Errorf("making a canary key: %w", err)
	}
	if found, err = findCanaries(s.p11, pkcs11.CKO_PRIVATE_KEY); err != nil {
		return err
	}
	c.canary, err = useCanary(s.p11, found)
	return err
}

func findCanaries(s *p11.Session, class uint) ([]pkcs11.ObjectHandle, error) {
	found, err := s.Find(
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, class),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, labelCanary))
	if err != nil {
		return nil, fmt.Errorf("finding the canary key: %w", err)
	}
	return found, nil
}

// canaryTries is how often a canary key is tried at connecting: another try there
// is quicker than another connection.
const canaryTries = 3

// useCanary returns the first of the private keys that signs.
func useCanary(s *p11.Session, found []pkcs11.ObjectHandle) (canaryKey, error) {
	public, err := findCanaries(s, pkcs11.CKO_PUBLIC_KEY)
	if err != nil {
		return canaryKey{}, err
	}
	reason := errors.New("it is not found")
	for range canaryTries {
		for _, o := range found {
			canary, err := loadCanary(s, o, public)
			if err == nil {
				err = canary.try(s)
			}
			if err == nil {
				return canary, nil
			}
			reason = err
			if err := s.Renew(); err != nil {
				return canaryKey{}, err
			}
		}
	}
	return canaryKey{}, fmt.Errorf("the canary key does not sign (there are %d): %w", len(found), reason)
}

// loadCanary reads what there is to know of a canary key.
func loadCanary(s *p11.Session, private pkcs11.ObjectHandle, public []pkcs11.ObjectHandle) (canaryKey, error) {
	keyType, err := s.Uint(private, pkcs11.CKA_KEY_TYPE)
	if err != nil {
		return canaryKey{}, err
	}
	c, spec := canaryKey{handle: private, alg: hsm.ECDSA_SHA_256}, hsm.EC_P256
	if keyType == pkcs11.CKK_RSA {
		c.alg, spec = hsm.RSA_PKCS1_SHA_256, hsm.RSA_2048
	}
	for _, o := range public {
		if spki, err := generators[spec].export(s, o); err == nil {
			c.halves = append(c.halves, hsm.Key{ID: canaryID, Spec: spec, Public: spki})
		}
	}
	return c, nil
}

func makeCanary(s *session) error {
	_, err := s.generate(hsm.EC_P256, canaryID, labelCanary)
	if errors.Is(err, hsm.ErrKeySpec) {
		_, err = s.generate(hsm.RSA_2048, canaryID, labelCanary)
	}
	return err
}

// checkAlive has the token make one signature with the canary key, and verifies it. It
// belongs before a search that found less than it should is believed: SoftHSM without
// its files finds no objects, and calls that a success (measured).
func (s *session) checkAlive() error { return s.conn.canary.try(s.p11) }

// try has a canary key make one signature, and verifies it. If somebody deleted its
// public half, that it signs has to be enough.
func (c canaryKey) try(s *p11.Session) error {
	m := mechanisms[c.alg]
	raw, err := m.sign(s, c.handle, canaryDigest)
	if err != nil {
		return fmt.Errorf("the canary key does not sign: %w", err)
	}
	if len(c.halves) == 0 {
		return nil
	}
	sig, err := m.output(raw)
	if err != nil {
		return p11.Wrap("trying the canary key", err)
	}
	for _, key := range c.halves {
		if err = check(key, c.alg, canaryDigest, sig); err == nil {
			return nil
		}
	}
	return p11.Wrap("trying the canary key", err)
}
