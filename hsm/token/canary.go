package token

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
)

// A canaryKey is a key pair in the token that signs nothing but a constant, to
// tell whether the token works. It is a token object like every signing key:
// when SoftHSM's files are gone, sessions can still be opened and searches
// still succeed, but nothing can be signed (measured).
type canaryKey struct {
	handle    pkcs11.ObjectHandle
	mechanism mechanism
}

var (
	canaryID     = bytes.Repeat([]byte{0xca}, idSize)
	canaryDigest = bytes.Repeat([]byte{0xca}, hsm.DigestSize)
)

// findCanary finds the canary key, or makes it: on P-256, or RSA for a token
// without curves. The token must be known to be ours by its sealing key: then one
// that has lost its canary is a good token still.
func (c *connection) findCanary(s *session, provision bool) error {
	template := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, labelCanary),
	}
	found, err := s.find(template...)
	if err != nil {
		return fmt.Errorf("finding the canary key: %w", err)
	}
	if len(found) > 0 {
		err = s.useCanary(found)
	}
	// One that does not sign, as a kill may leave it, is replaced when the operator
	// has kmsgate make what is missing. Else it means that the token is not well.
	if err == nil && len(found) > 0 || err != nil && !provision {
		return err
	}
	if !provision {
		s.token.log.Warn("the token has lost the canary key, by which it is told that it works: making another one")
	}
	if err := s.renew(); err != nil {
		return err
	}
	if err := makeCanary(s); err != nil {
		return fmt.Errorf("making a canary key: %w", err)
	}
	if found, err = s.find(template...); err != nil {
		return fmt.Errorf("finding the canary key: %w", err)
	}
	return s.useCanary(found)
}

// useCanary takes the first of the keys that signs.
func (s *session) useCanary(found []pkcs11.ObjectHandle) (err error) {
	for _, o := range found {
		if s.connection.canary, err = s.asCanary(o); err == nil {
			return nil
		}
		if err := s.renew(); err != nil {
			return err
		}
	}
	return fmt.Errorf("none of %d canary keys signs: %w", len(found), err)
}

// asCanary tries a private key as canary.
func (s *session) asCanary(o pkcs11.ObjectHandle) (canaryKey, error) {
	keyType, err := s.attribute(o, pkcs11.CKA_KEY_TYPE)
	if err != nil {
		return canaryKey{}, err
	}
	c := canaryKey{o, mechanisms[hsm.ECDSA_SHA_256]}
	if bytes.Equal(keyType, pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_RSA).Value) {
		c.mechanism = mechanisms[hsm.RSA_PKCS1_SHA_256]
	}
	_, err = s.signRaw(c.handle, c.mechanism, canaryDigest)
	return c, err
}

func makeCanary(s *session) error {
	_, err := s.generate(hsm.EC_P256, canaryID, labelCanary)
	if errors.Is(err, hsm.ErrKeySpec) {
		_, err = s.generate(hsm.RSA_2048, canaryID, labelCanary)
	}
	return err
}

// canary has the token make one signature.
func (s *session) canary() error {
	c := s.connection.canary
	if _, err := s.signRaw(c.handle, c.mechanism, canaryDigest); err != nil {
		return fmt.Errorf("the canary key does not sign: %w", err)
	}
	return nil
}
