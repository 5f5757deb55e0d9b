package token

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/token/internal/p11"
)

// A sealed secret begins with a format byte and the CKA_ID of the sealing key, which are part
// of the additional data. The rest depends on the format:
//
//	1: a nonce and the AES-256-GCM ciphertext with its tag, made by the token
//	2: a salt, a nonce and the AES-256-GCM ciphertext with its tag, made by this
//	   process, under the key that the token computes as the HMAC-SHA-256 of a
//	   constant, the CKA_ID, the salt and the additional data
//
// Format 2 is for tokens without AES-GCM. It encrypts every secret under a different key,
// which only the token can compute.
const (
	formatGCM  = 1
	formatHMAC = 2

	nonceSize  = 12 // of random nonces; one key may seal 2^32 times (SP 800-38D, 8.3)
	saltSize   = 16
	headerSize = 1 + idSize
	tagSize    = 16
	maxSecret  = 64 << 10
)

// A sealingKey is the secret key in the token that seals. It is never extractable.
type sealingKey struct {
	id     []byte // its CKA_ID
	handle pkcs11.ObjectHandle
	format byte
}

// findSealingKey finds the sealing key, or makes it if provision is set, and tests it.
func (c *connection) findSealingKey(s *session, provision bool) (err error) {
	c.sealing, err = onlySealingKey(s.p11)
	if err != nil {
		return fmt.Errorf("finding the sealing key: %w", err)
	}
	switch {
	case c.sealing.id != nil:
		err = c.sealing.try(s.p11)
	case provision:
		err = c.provisionSealing(s)
	default:
		err = fmt.Errorf("%w: it has no key labelled %q", hsm.ErrNotOurs, labelSealing)
	}
	if err != nil {
		return fmt.Errorf("preparing the sealing key: %w", err)
	}
	return nil
}

// onlySealingKey returns the only sealing key, or a sealingKey without id if the token has none.
func onlySealingKey(s *p11.Session) (key sealingKey, err error) {
	found, err := s.Find(
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, labelSealing))
	if err != nil || len(found) == 0 {
		return key, err
	}
	if len(found) > 1 {
		return key, fmt.Errorf("the token has %d keys labelled %q instead of one", len(found), labelSealing)
	}
	key.handle = found[0]
	if key.id, err = s.Attribute(key.handle, pkcs11.CKA_ID); err != nil {
		return key, err
	}
	if len(key.id) != idSize {
		return key, fmt.Errorf("the key's CKA_ID has %d bytes, not %d", len(key.id), idSize)
	}
	keyType, err := s.Uint(key.handle, pkcs11.CKA_KEY_TYPE)
	if err != nil {
		return key, err
	}
	key.format = formatHMAC
	if keyType == pkcs11.CKK_AES {
		key.format = formatGCM
	}
	return key, nil
}

// provisionSealing makes an AES sealing key or, if that does not work, an HMAC sealing key.
func (c *connection) provisionSealing(s *session) error {
	aesErr := c.trySealingKey(s, c.makeAESKey)
	if aesErr == nil {
		return nil
	}
	if err := c.trySealingKey(s, func() error { return makeHMACKey(s.p11) }); err != nil {
		return fmt.Errorf("kmsgate needs CKM_AES_GCM with additional data (%w), "+
			"or CKM_SHA256_HMAC with a generic secret key (%w)", aesErr, err)
	}
	c.token.log.Info("the token has no AES-GCM; this process seals secrets with keys that the token derives",
		"err", aesErr)
	return nil
}

// trySealingKey makes a sealing key and tests it. It destroys a key that does not work.
func (c *connection) trySealingKey(s *session, make func() error) error {
	if err := make(); err != nil {
		return err
	}
	key, err := onlySealingKey(s.p11)
	if err != nil {
		return err
	}
	if err := key.try(s.p11); err != nil {
		return errors.Join(err, s.p11.Destroy(key.handle))
	}
	c.sealing = key
	return s.flush()
}

// makeAESKey makes an AES sealing key through crypto11, which uses a separate session.
func (c *connection) makeAESKey() error {
	if c.c11 == nil {
		return errors.New("crypto11, which makes AES keys, cannot open the module")
	}
	template, err := crypto11.NewAttributeSetWithIDAndLabel(newSealingID(), []byte(labelSealing))
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
	return c.token.module.Call("C_GenerateKey by crypto11", func() error {
		_, err := c.c11.GenerateSecretKeyWithAttributes(template, 256, crypto11.CipherAES)
		return err
	})
}

func makeHMACKey(s *p11.Session) error {
	_, err := s.GenerateKey(pkcs11.CKM_GENERIC_SECRET_KEY_GEN, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, derivedSize),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
		pkcs11.NewAttribute(pkcs11.CKA_ID, newSealingID()),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, labelSealing),
	})
	return err
}

// derivedSize is the length in bytes of an HMAC-SHA-256, which is used as an AES key.
const derivedSize = 32

func newSealingID() []byte {
	id := make([]byte, idSize)
	rand.Read(id)
	return id
}

// try seals and unseals a test value.
func (k sealingKey) try(s *p11.Session) error {
	secret, aad := []byte("secret"), []byte("aad")
	sealed, err := k.seal(s, secret, aad)
	if err != nil {
		return err
	}
	got, err := k.unseal(s, sealed, aad)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, secret) {
		return errors.New("unsealing returned another value than was sealed")
	}
	if _, err := k.unseal(s, sealed, []byte("other")); err == nil {
		return errors.New("unsealing accepted wrong additional data")
	}
	return nil
}

// header returns the first bytes of every secret that the key seals.
func (k sealingKey) header() []byte { return append([]byte{k.format}, k.id...) }

func (k sealingKey) seal(s *p11.Session, plaintext, aad []byte) ([]byte, error) {
	header := k.header()
	nonce := make([]byte, nonceSize)
	rand.Read(nonce)
	if k.format == formatGCM {
		ciphertext, err := s.EncryptGCM(k.handle, nonce, plaintext, slices.Concat(header, aad))
		return slices.Concat(header, nonce, ciphertext), err
	}
	salt := make([]byte, saltSize)
	rand.Read(salt)
	aead, err := k.deriveAEAD(s, salt, aad)
	if err != nil {
		return nil, err
	}
	return aead.Seal(slices.Concat(header, salt, nonce), nonce, plaintext, slices.Concat(header, aad)), nil
}

func (k sealingKey) unseal(s *p11.Session, sealed, aad []byte) ([]byte, error) {
	header := k.header()
	if len(sealed) < headerSize+nonceSize+tagSize || sealed[0] != formatGCM && sealed[0] != formatHMAC {
		return nil, errors.New("not a sealed secret of a known format")
	}
	if !bytes.Equal(sealed[:headerSize], header) {
		return nil, fmt.Errorf("the database and the token do not belong together: "+
			"key %x sealed the secret, but the token has %x", sealed[1:headerSize], k.id)
	}
	rest, aad := sealed[headerSize:], slices.Concat(header, aad)
	if k.format == formatGCM {
		return s.DecryptGCM(k.handle, rest[:nonceSize], rest[nonceSize:], aad)
	}
	if len(rest) < saltSize+nonceSize+tagSize {
		return nil, errors.New("not a sealed secret of a known format")
	}
	aead, err := k.deriveAEAD(s, rest[:saltSize], aad[headerSize:])
	if err != nil {
		return nil, err
	}
	secret, err := aead.Open(nil, rest[saltSize:saltSize+nonceSize], rest[saltSize+nonceSize:], aad)
	return secret, p11.Wrap("decrypting with the key that the token derived", err)
}

// deriveAEAD returns the AEAD for one secret.
func (k sealingKey) deriveAEAD(s *p11.Session, salt, aad []byte) (cipher.AEAD, error) {
	context := slices.Concat([]byte("kmsgate sealing 2|"), k.id, salt, aad)
	key, err := s.Sign(k.handle, pkcs11.CKM_SHA256_HMAC, nil, context)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	if len(key) != derivedSize {
		return nil, p11.Wrap("C_Sign", fmt.Errorf("the HMAC-SHA-256 has %d bytes, not %d", len(key), derivedSize))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// Seal encrypts plaintext, up to 64 KiB, under a key that never leaves the
// token. The result is 45 bytes longer than the plaintext, or 61 if the token has
// no AES-GCM. Seal checks that the result can be unsealed.
func (t *Token) Seal(ctx context.Context, plaintext, aad []byte) ([]byte, error) {
	if len(plaintext) > maxSecret {
		return nil, fmt.Errorf("sealing a secret: %d bytes is longer than the limit of %d", len(plaintext), maxSecret)
	}
	return run(ctx, t, t.jobs, func(s *session) ([]byte, error) {
		sealed, err := s.withSealing(s.conn.sealing.seal(s.p11, plaintext, aad))
		if err != nil {
			return nil, err
		}
		again, err := s.withSealing(s.conn.sealing.unseal(s.p11, sealed, aad))
		defer clear(again)
		if err == nil && !bytes.Equal(again, plaintext) {
			err = errors.New("the result differs from the plaintext")
		}
		return sealed, p11.Wrap("unsealing the sealed secret as a check", err)
	})
}

// Unseal is the inverse of Seal. It requires the same aad and the same token. If the token
// works but does not unseal the secret, the error is not hsm.ErrUnavailable.
func (t *Token) Unseal(ctx context.Context, sealed, aad []byte) ([]byte, error) {
	return runOr(ctx, t, t.jobs, errNotUnsealed, func(s *session) ([]byte, error) {
		secret, err := s.withSealing(s.conn.sealing.unseal(s.p11, sealed, aad))
		if err != nil || s.conn.sealing.format != formatGCM {
			return secret, err
		}
		// The token authenticates the plaintext. A second call checks the token.
		again, err := s.withSealing(s.conn.sealing.unseal(s.p11, sealed, aad))
		defer clear(again)
		if err == nil && !bytes.Equal(again, secret) {
			err = p11.Wrap("unsealing twice", errors.New("the results differ"))
		}
		return secret, err
	})
}

// withSealing passes on the result of a use of the sealing key. If the token no longer knows
// that key, the secret is not at fault but the connection may be, so withSealing abandons the
// connection.
func (s *session) withSealing(result []byte, err error) ([]byte, error) {
	if p11.Is(err, p11.HandleErrors...) {
		return nil, s.loseConnection(fmt.Errorf("the sealing key: %w", err))
	}
	return result, err
}
