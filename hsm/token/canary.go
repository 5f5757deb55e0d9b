package token

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/token/internal/p11"
)

// A canaryKey is a key pair in the token that signs only a constant, to show whether the
// token works. It is a token object like every signing key: without its files, SoftHSM still
// opens sessions and completes searches, but cannot sign (measured).
type canaryKey struct {
	handle pkcs11.ObjectHandle
	alg    hsm.Algorithm
	halves []hsm.Key // the public halves: one, unless a kill left an incomplete pair
}

var (
	canaryID     = bytes.Repeat([]byte{0xca}, idSize)
	canaryDigest = bytes.Repeat([]byte{0xca}, hsm.DigestSize)
)

// findCanary finds or makes the canary key, which is on P-256, or RSA if the token has no
// curves. The sealing key must already have identified the token: then a token that has only
// lost its canary key is still good.
func (c *connection) findCanary(s *session, provision bool) error {
	found, err := findCanaries(s.p11)
	if err != nil {
		return err
	}
	if len(found.private) > 0 {
		// A kill may leave a canary key that does not sign. If the operator allows
		// provisioning, it is replaced. Otherwise it means that the token does not work.
		if c.canary, err = useCanary(s.p11, found); err == nil || !provision {
			return err
		}
		if err := s.p11.Renew(); err != nil {
			return err
		}
	}
	if !provision {
		s.conn.token.log.Warn("the token has lost the canary key, which shows whether the token works; making another one")
	}
	if err := makeCanary(s); err != nil {
		return fmt.Errorf("making a canary key: %w", err)
	}
	if found, err = findCanaries(s.p11); err != nil {
		return err
	}
	c.canary, err = useCanary(s.p11, found)
	return err
}

// canaryHalves are the halves of the canary keys in the token.
type canaryHalves struct{ private, public []pkcs11.ObjectHandle }

// findCanaries finds both halves in one search, because a search takes long among many keys.
func findCanaries(s *p11.Session) (halves canaryHalves, err error) {
	found, err := s.Find(pkcs11.NewAttribute(pkcs11.CKA_LABEL, labelCanary))
	if err != nil {
		return halves, fmt.Errorf("finding the canary key: %w", err)
	}
	for _, o := range found {
		class, err := s.Uint(o, pkcs11.CKA_CLASS)
		if p11.Is(err, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID) {
			continue // a kill left it incomplete
		}
		if err != nil {
			return halves, fmt.Errorf("finding the canary key: %w", err)
		}
		switch class {
		case pkcs11.CKO_PRIVATE_KEY:
			halves.private = append(halves.private, o)
		case pkcs11.CKO_PUBLIC_KEY:
			halves.public = append(halves.public, o)
		}
	}
	return halves, nil
}

// canaryTries is how often connecting tries the canary keys: another try takes less time than
// another connection.
const canaryTries = 3

// useCanary returns the first of the private keys that signs.
func useCanary(s *p11.Session, found canaryHalves) (canaryKey, error) {
	reason := errors.New("not found")
	for range canaryTries {
		for _, o := range found.private {
			canary, err := loadCanary(s, o, found.public)
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
	return canaryKey{}, fmt.Errorf("trying %d canary keys: none signs: %w", len(found.private), reason)
}

// loadCanary reads the attributes of a canary key.
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

// checkAlive makes one signature with the canary key and verifies it. It must be called before
// trusting a search that found fewer objects than expected: without its files, SoftHSM
// finds no objects and reports success (measured).
func (s *session) checkAlive() error { return s.conn.canary.try(s.p11) }

// try makes one signature with the canary key and verifies it. If someone has deleted the
// public half, try does not verify the signature.
func (c canaryKey) try(s *p11.Session) error {
	m := mechanisms[c.alg]
	raw, err := m.sign(s, c.handle, canaryDigest)
	if err != nil {
		return fmt.Errorf("signing with the canary key: %w", err)
	}
	if len(c.halves) == 0 {
		return nil
	}
	sig, err := m.output(raw)
	if err != nil {
		return p11.Wrap("verifying the canary signature", err)
	}
	for _, key := range c.halves {
		if err = check(key, c.alg, canaryDigest, sig); err == nil {
			return nil
		}
	}
	return p11.Wrap("verifying the canary signature", err)
}
