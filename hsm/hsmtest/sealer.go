package hsmtest

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"errors"
)

// Seal encrypts under a key that is the same for every Fake. It protects nothing.
func (f *Fake) Seal(ctx context.Context, plaintext, aad []byte) ([]byte, error) {
	if err := f.failure(ctx); err != nil {
		return nil, err
	}
	nonce := make([]byte, 12)
	rand.Read(nonce)
	return fakeAEAD().Seal(nonce, nonce, plaintext, aad), nil
}

// Unseal is the inverse of Seal.
func (f *Fake) Unseal(ctx context.Context, sealed, aad []byte) ([]byte, error) {
	if err := f.failure(ctx); err != nil {
		return nil, err
	}
	if len(sealed) < 12 {
		return nil, errors.New("unsealing: the input is too short")
	}
	return fakeAEAD().Open(nil, sealed[:12], sealed[12:], aad)
}

func fakeAEAD() cipher.AEAD {
	key := sha256.Sum256([]byte("no secret"))
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // cannot happen: the key has 32 bytes
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // cannot happen: AES has the block size that GCM requires
	}
	return aead
}
