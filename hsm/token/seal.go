package token

import (
	"bytes"
	"context"
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
	id     []byte // its CKA_ID
	handle pkcs11.ObjectHandle
}

// findSealingKey finds the sealing key, or makes it where that is configured,
// and tries it.
func (c *connection) findSealingKey(s *session, provision bool) error {
	key, err := s.onlySealingKey()
	if err == nil && key.id == nil && provision {
		if err = c.makeSealingKey(); err == nil {
			key, err = s.onlySealingKey()
		}
	}
	if err != nil {
		return fmt.Errorf("finding the sealing key: %w", err)
	}
	if key.id == nil {
		return fmt.Errorf("%w: it has no key labelled %s", errNotOurs, labelSealing)
	}
	c.sealing = key
	if err := s.testSealing(); err != nil {
		return fmt.Errorf("the token cannot seal: kmsgate needs CKM_AES_GCM with additional data: %w", err)
	}
	return nil
}

// onlySealingKey gives the one sealing key, without id if there is none.
func (s *session) onlySealingKey() (sealingKey, error) {
	found, err := s.find(
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, labelSealing))
	if err != nil || len(found) == 0 {
		return sealingKey{}, err
	}
	if len(found) > 1 {
		return sealingKey{}, fmt.Errorf("the token has %d keys labelled %s where there must be one", len(found), labelSealing)
	}
	id, err := s.attribute(found[0], pkcs11.CKA_ID)
	if err == nil && len(id) != idSize {
		err = fmt.Errorf("its CKA_ID has %d bytes, not %d", len(id), idSize)
	}
	return sealingKey{id, found[0]}, err
}

func (c *connection) makeSealingKey() error {
	id := make([]byte, idSize)
	rand.Read(id)
	template, err := crypto11.NewAttributeSetWithIDAndLabel(id, []byte(labelSealing))
	if err != nil {
		return err
	}
	template.AddIfNotPresent([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, false),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, false),
	})
	if _, err := c.c11.GenerateSecretKeyWithAttributes(template, 256, crypto11.CipherAES); err != nil {
		return err
	}
	return c.token.cfg.AfterChange()
}

func (s *session) testSealing() error {
	secret, aad := []byte("secret"), []byte("aad")
	sealed, err := s.seal(secret, aad)
	if err != nil {
		return err
	}
	got, err := s.unseal(sealed, aad)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, secret) {
		return errors.New("unsealing gave something else than was sealed")
	}
	if _, err := s.unseal(sealed, []byte("other")); err == nil {
		return errors.New("unsealing took other additional data")
	}
	return nil
}

func (k sealingKey) header() []byte { return append([]byte{sealFormat}, k.id...) }

// seal encrypts in the worker's own session. crypto11's AEAD would do it in a
// session of a pool that keeps dead ones.
func (s *session) seal(plaintext, aad []byte) ([]byte, error) {
	nonce := make([]byte, nonceSize)
	rand.Read(nonce)
	header := s.sealing.header()
	params := pkcs11.NewGCMParams(nonce, slices.Concat(header, aad), 8*tagSize)
	defer params.Free()
	if err := s.p11.EncryptInit(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, params)}, s.sealing.handle); err != nil {
		return nil, fromModule("C_EncryptInit", err)
	}
	ciphertext, err := s.p11.Encrypt(s.handle, plaintext)
	if err != nil {
		return nil, fromModule("C_Encrypt", err)
	}
	return slices.Concat(header, nonce, ciphertext), nil
}

func (s *session) unseal(sealed, aad []byte) ([]byte, error) {
	header := s.sealing.header()
	if len(sealed) < headerSize+nonceSize+tagSize || sealed[0] != sealFormat {
		return nil, errors.New("not a sealed secret of a known format")
	}
	if !bytes.Equal(sealed[:headerSize], header) {
		return nil, fmt.Errorf("sealed by key %x, but this token's sealing key is %x: the database and the token do not belong together", sealed[1:headerSize], s.sealing.id)
	}
	nonce, ciphertext := sealed[headerSize:headerSize+nonceSize], sealed[headerSize+nonceSize:]
	params := pkcs11.NewGCMParams(nonce, slices.Concat(header, aad), 8*tagSize)
	defer params.Free()
	if err := s.p11.DecryptInit(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, params)}, s.sealing.handle); err != nil {
		return nil, fromModule("C_DecryptInit", err)
	}
	plaintext, err := s.p11.Decrypt(s.handle, ciphertext)
	return plaintext, fromModule("C_Decrypt", err)
}

// Seal encrypts plaintext, up to 64 KiB, under a key that never leaves the
// token. The result is 45 bytes longer than the plaintext.
func (t *Token) Seal(ctx context.Context, plaintext, aad []byte) ([]byte, error) {
	if len(plaintext) > maxSecret {
		return nil, fmt.Errorf("a secret of %d bytes is longer than %d", len(plaintext), maxSecret)
	}
	return run(ctx, t, t.jobs, again, func(s *session) ([]byte, error) { return s.seal(plaintext, aad) })
}

// Unseal is the inverse of Seal, for the same aad and the same token only.
func (t *Token) Unseal(ctx context.Context, sealed, aad []byte) ([]byte, error) {
	return run(ctx, t, t.jobs, again, func(s *session) ([]byte, error) { return s.unseal(sealed, aad) })
}
