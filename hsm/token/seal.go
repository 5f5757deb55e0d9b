package token

import (
	"bytes"
	"context"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"
)

// What Seal returns: a format byte, the CKA_ID of the sealing key, a nonce, and
// the AES-256-GCM ciphertext with its tag. Format and key id are part of the
// additional data.
const (
	sealFormat = 1
	nonceSize  = 12 // of random nonces; one key may seal 2^32 times (SP 800-38D, 8.3)
	headerSize = 1 + idSize
	tagSize    = 16
	maxSecret  = 64 << 10
)

// A sealingKey is the AES key that seals: in the token, never extractable.
type sealingKey struct {
	id   []byte // its CKA_ID
	aead cipher.AEAD
}

// findSealingKey finds the sealing key, or makes it where that is configured.
func (c *connection) findSealingKey(s *session, provision bool) error {
	id, err := s.sealingKeyID()
	if err != nil {
		return fmt.Errorf("finding the sealing key: %w", err)
	}
	if id == nil {
		if !provision {
			return fmt.Errorf("%w: it has no key labelled %s", errNotOurs, labelSealing)
		}
		if id, err = c.makeSealingKey(); err != nil {
			return fmt.Errorf("making the sealing key: %w", err)
		}
	}
	key, err := c.c11.FindKey(id, []byte(labelSealing))
	if err != nil {
		return fmt.Errorf("finding the sealing key %x again: %w", id, err)
	}
	if key == nil {
		return fmt.Errorf("the sealing key %x is gone", id)
	}
	aead, err := key.NewGCM()
	if err != nil {
		return err
	}
	c.sealing = sealingKey{id, aead}
	if err := c.sealing.test(); err != nil {
		return fmt.Errorf("the token cannot seal: kmsgate needs CKM_AES_GCM with additional data: %w", err)
	}
	return nil
}

// sealingKeyID gives the CKA_ID of the one sealing key, nil if there is none.
func (s *session) sealingKeyID() ([]byte, error) {
	found, err := s.find(
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, labelSealing))
	if err != nil || len(found) == 0 {
		return nil, err
	}
	if len(found) > 1 {
		return nil, fmt.Errorf("the token has %d keys labelled %s where there must be one", len(found), labelSealing)
	}
	id, err := s.attribute(found[0], pkcs11.CKA_ID)
	if err == nil && len(id) != idSize {
		err = fmt.Errorf("its CKA_ID has %d bytes, not %d", len(id), idSize)
	}
	return id, err
}

func (c *connection) makeSealingKey() ([]byte, error) {
	id := make([]byte, idSize)
	rand.Read(id)
	template, err := crypto11.NewAttributeSetWithIDAndLabel(id, []byte(labelSealing))
	if err != nil {
		return nil, err
	}
	template.AddIfNotPresent([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, false),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, false),
	})
	if _, err := c.c11.GenerateSecretKeyWithAttributes(template, 256, crypto11.CipherAES); err != nil {
		return nil, err
	}
	return id, c.token.cfg.AfterChange()
}

func (k sealingKey) test() error {
	secret, aad := []byte("secret"), []byte("aad")
	sealed, err := k.seal(secret, aad)
	if err != nil {
		return err
	}
	got, err := k.unseal(sealed, aad)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, secret) {
		return errors.New("unsealing gave something else than was sealed")
	}
	if _, err := k.unseal(sealed, []byte("other")); err == nil {
		return errors.New("unsealing took other additional data")
	}
	return nil
}

func (k sealingKey) header() []byte { return append([]byte{sealFormat}, k.id...) }

func (k sealingKey) seal(plaintext, aad []byte) (sealed []byte, err error) {
	// crypto11's Seal has no error to return and panics instead.
	defer func() {
		if p := recover(); p != nil {
			err = fromModule("sealing", fmt.Errorf("%v", p))
		}
	}()
	nonce := make([]byte, nonceSize)
	rand.Read(nonce)
	header := k.header()
	return k.aead.Seal(slices.Concat(header, nonce), nonce, plaintext, slices.Concat(header, aad)), nil
}

func (k sealingKey) unseal(sealed, aad []byte) ([]byte, error) {
	if len(sealed) < headerSize+nonceSize+tagSize || sealed[0] != sealFormat {
		return nil, errors.New("not a sealed secret of a known format")
	}
	if !bytes.Equal(sealed[:headerSize], k.header()) {
		return nil, fmt.Errorf("sealed by key %x, but this token's sealing key is %x: the database and the token do not belong together", sealed[1:headerSize], k.id)
	}
	header, nonce, ciphertext := sealed[:headerSize], sealed[headerSize:headerSize+nonceSize], sealed[headerSize+nonceSize:]
	plaintext, err := k.aead.Open(nil, nonce, ciphertext, slices.Concat(header, aad))
	return plaintext, fromModule("unsealing", err)
}

// Seal encrypts plaintext, up to 64 KiB, under a key that never leaves the
// token. The result is 45 bytes longer than the plaintext.
func (t *Token) Seal(ctx context.Context, plaintext, aad []byte) ([]byte, error) {
	if len(plaintext) > maxSecret {
		return nil, fmt.Errorf("a secret of %d bytes is longer than %d", len(plaintext), maxSecret)
	}
	return run(ctx, t, t.jobs, again, func(s *session) ([]byte, error) { return s.sealing.seal(plaintext, aad) })
}

// Unseal is the inverse of Seal, for the same aad and the same token only.
func (t *Token) Unseal(ctx context.Context, sealed, aad []byte) ([]byte, error) {
	return run(ctx, t, t.jobs, again, func(s *session) ([]byte, error) { return s.sealing.unseal(sealed, aad) })
}
