// Package sealed keeps SM2 keys in software, each sealed by the token. No known token
// implements SM2DSA: SoftHSM makes keys on the SM2 curve but signs ECDSA with them, which no
// SM2 verifier accepts. So the package uses these keys in this process's memory.
//
// What it guarantees:
//
//   - A copy of the database is useless without the token.
//   - A sealed key opens only for the KeyVersionId, KeySpec and public key that it was
//     made for. Write access to the database is not enough to make one key's record sign
//     with another's private key.
//   - An unsealed key is dropped from memory after five minutes. It is dropped earlier if it is
//     forgotten, destroyed or quarantined, or if the token is lost (DropAll).
//
// What it cannot guarantee: anyone who can read this process's memory while a key is in
// use can read the key. An [hsm.Route] verifies the package's signatures, like every backend's.
package sealed

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/emmansun/gmsm/sm2"

	"github.com/kmsgate/kmsgate/hsm"
)

const (
	// maxAge is how long an unsealed key stays in memory. Unsealing takes 130 µs and a
	// signature with a key in memory 36 µs (measured on SoftHSM), so a longer time gains
	// little.
	maxAge = 5 * time.Minute
	// maxUnsealed is how many unsealed keys may be in memory at once.
	maxUnsealed = 1000

	scalarSize = 32 // of an SM2 private key, bytes
)

// A Backend makes and uses EC_SM2 keys. Use [New].
type Backend struct {
	sealer hsm.Sealer

	mu       sync.Mutex
	unsealed map[[sha256.Size]byte]unsealed // by a hash of the whole Key, so an entry is never stale
	drops    int                            // the number of drops so far; guarded by mu too
}

// An unsealed key is in memory until its timer fires or it is dropped.
type unsealed struct {
	id      string // the Key's ID
	private *sm2.PrivateKey
	timer   *time.Timer
}

var _ hsm.Backend = (*Backend)(nil)

// New returns a Backend whose keys are sealed by sealer.
func New(sealer hsm.Sealer) *Backend {
	return &Backend{sealer: sealer, unsealed: make(map[[sha256.Size]byte]unsealed)}
}

// Generate makes an EC_SM2 key, seals it and tests it. The private key is stored in the Key
// only; an unsealed copy stays in memory until it is dropped.
func (b *Backend) Generate(ctx context.Context, spec hsm.KeySpec, id []byte) (hsm.Key, error) {
	if spec != hsm.EC_SM2 {
		return hsm.Key{}, fmt.Errorf("%w: no software key has KeySpec %q", hsm.ErrKeySpec, spec)
	}
	private, err := sm2.GenerateKey(rand.Reader)
	if err != nil {
		return hsm.Key{}, fmt.Errorf("generating an SM2 key: %w", err)
	}
	return b.add(ctx, private, id)
}

// Import is Generate with an existing private key, 32 bytes big-endian. It is for tests: a key that
// was ever outside is not protected.
func (b *Backend) Import(ctx context.Context, scalar, id []byte) (hsm.Key, error) {
	private, err := sm2.NewPrivateKey(scalar)
	if err != nil {
		return hsm.Key{}, fmt.Errorf("reading an SM2 key: %w", err)
	}
	return b.add(ctx, private, id)
}

// add seals and tests a key.
func (b *Backend) add(ctx context.Context, private *sm2.PrivateKey, id []byte) (hsm.Key, error) {
	public, err := marshalPublic(&private.PublicKey)
	if err != nil {
		return hsm.Key{}, err
	}
	key := hsm.Key{ID: id, Spec: hsm.EC_SM2, Public: public}
	scalar := private.D.FillBytes(make([]byte, scalarSize))
	defer clear(scalar)
	if key.Sealed, err = b.sealer.Seal(ctx, scalar, additionalData(key)); err != nil {
		return hsm.Key{}, fmt.Errorf("sealing an SM2 key: %w", err)
	}
	return key, hsm.SelfTest(ctx, b, key)
}

// Sign signs digest, which for SM2DSA is e = SM3(Z_A || M), without hashing it again.
func (b *Backend) Sign(ctx context.Context, k hsm.Key, _ hsm.Algorithm, digest []byte) ([]byte, error) {
	if err := b.Has(k); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	private, err := b.private(ctx, k)
	if err != nil {
		return nil, err
	}
	// No SignerOpts: sm2.DefaultSM2SignerOpts would hash the digest again.
	return sm2.SignASN1(rand.Reader, private, digest, nil)
}

// Destroy drops k from memory. The caller must delete the sealed key.
func (b *Backend) Destroy(_ context.Context, k hsm.Key) error {
	b.Forget(k)
	return nil
}

// Has returns nil if k holds a sealed key. It does not check that the token can unseal it.
func (b *Backend) Has(k hsm.Key) error {
	if k.Sealed == nil {
		return fmt.Errorf("%w: key version %x holds no sealed key", hsm.ErrNotFound, k.ID)
	}
	return nil
}

// Forget drops k from memory. It looks only at k.ID, as a key to be destroyed may have no
// other field.
func (b *Backend) Forget(k hsm.Key) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drops++
	for print, kept := range b.unsealed {
		if kept.id == string(k.ID) {
			b.drop(print)
		}
	}
}

// Quarantine drops k from memory. Before the next signature the token unseals it again,
// and Sign compares the result with k.Public. Without the token, Sign fails.
func (b *Backend) Quarantine(_ context.Context, k hsm.Key) error {
	b.Forget(k)
	return nil
}

// Health returns nil if the sealer seals and unseals a test value.
func (b *Backend) Health(ctx context.Context) error {
	secret, aad := []byte("canary"), []byte("health")
	sealed, err := b.sealer.Seal(ctx, secret, aad)
	if err != nil {
		return fmt.Errorf("sealing a test value: %w", err)
	}
	got, err := b.sealer.Unseal(ctx, sealed, aad)
	if err != nil {
		return fmt.Errorf("unsealing a test value: %w", err)
	}
	if !bytes.Equal(got, secret) {
		return errors.New("the token unsealed a value that differs from what it sealed")
	}
	return nil
}

// DropAll drops every unsealed key from memory. Call it when the token is lost: without
// the token, software keys must not sign.
func (b *Backend) DropAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drops++
	for print := range b.unsealed {
		b.drop(print)
	}
}

// drop drops a key from memory. It stops the timer too, which would hold the key for
// minutes. The caller holds mu.
func (b *Backend) drop(print [sha256.Size]byte) {
	if u, ok := b.unsealed[print]; ok {
		u.timer.Stop()
		delete(b.unsealed, print)
	}
}

func (b *Backend) private(ctx context.Context, k hsm.Key) (*sm2.PrivateKey, error) {
	print := fingerprint(k)
	b.mu.Lock()
	kept, ok := b.unsealed[print]
	drops := b.drops
	b.mu.Unlock()
	if ok {
		return kept.private, nil
	}
	private, err := b.unseal(ctx, k)
	if err != nil {
		return nil, fmt.Errorf("unsealing key version %x: %w", k.ID, err)
	}
	b.keep(k, private, drops)
	return private, nil
}

func (b *Backend) unseal(ctx context.Context, k hsm.Key) (*sm2.PrivateKey, error) {
	scalar, err := b.sealer.Unseal(ctx, k.Sealed, additionalData(k))
	if err != nil {
		return nil, err
	}
	defer clear(scalar)
	private, err := sm2.NewPrivateKey(scalar)
	if err != nil {
		return nil, err
	}
	public, err := marshalPublic(&private.PublicKey)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(public, k.Public) {
		return nil, errors.New("the sealed key does not match the recorded public key")
	}
	return private, nil
}

// keep keeps a key in memory. drops is the number of drops before the key was unsealed. If
// there has been another drop, it may have been for this key, so keep does nothing.
func (b *Backend) keep(k hsm.Key, private *sm2.PrivateKey, drops int) {
	print := fingerprint(k)
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.unsealed[print]; ok || b.drops != drops {
		return
	}
	if len(b.unsealed) >= maxUnsealed {
		for victim := range b.unsealed { // any of them: the token can unseal it again
			b.drop(victim)
			break
		}
	}
	timer := time.AfterFunc(maxAge, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.unsealed[print].private == private {
			b.drop(print)
		}
	})
	b.unsealed[print] = unsealed{string(k.ID), private, timer}
}

// additionalData returns the data that k's sealed key is bound to.
func additionalData(k hsm.Key) []byte {
	public := sha256.Sum256(k.Public)
	return fmt.Appendf(nil, "kmsgate sealed key 1|%x|%s|%x", k.ID, k.Spec, public)
}

func fingerprint(k hsm.Key) [sha256.Size]byte {
	return sha256.Sum256(append(additionalData(k), k.Sealed...))
}

func marshalPublic(pub *ecdsa.PublicKey) ([]byte, error) {
	point, err := sm2.PublicKeyToECDH(pub)
	if err != nil {
		return nil, fmt.Errorf("encoding an SM2 public key: %w", err)
	}
	return hsm.MarshalECPublicKey(hsm.EC_SM2, point.Bytes())
}
