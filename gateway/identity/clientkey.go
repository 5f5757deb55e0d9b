package identity

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// MaxClientKeys is the greatest number of client keys.
const MaxClientKeys = 10_000

// ClientKey verifies the claim of a client key and returns its access point. It checks, in
// this order, that the time is within TimeWindow, the client key exists, the signature is
// valid, the client key is in force, and the token sealed its record. It asks the token
// once for each record. Before it asks, when the signature is verified, it calls verified.
// The native API has no nonce, so it must not offer an operation that changes anything.
func (r *Registry) ClientKey(
	ctx context.Context, records *store.Records, claim *acs.Claim, now time.Time, verified func(),
) (*Principal, error) {
	if claim.Time.Before(now.Add(-TimeWindow)) || claim.Time.After(now.Add(TimeWindow)) {
		return nil, kms.ErrNativeTime
	}
	key, err := records.ClientKeys().Get(claim.AccessKeyId)
	if errors.Is(err, store.ErrNotFound) {
		return nil, kms.ErrNativeClientKey.Saying("The AccessKey ID %q does not exist in our records.",
			kms.Clip(claim.AccessKeyId))
	}
	if err != nil {
		return nil, err
	}
	if err := checkClientKey(key, claim, now); err != nil {
		return nil, err
	}
	p, err := r.AccessPoint(records, key.AapName)
	if err != nil {
		return nil, err
	}
	verified()
	if err := r.checkSeal(ctx, key); err != nil {
		return nil, err
	}
	return p, nil
}

func checkClientKey(key store.ClientKey, claim *acs.Claim, now time.Time) error {
	certificate, err := x509.ParseCertificate(key.Certificate)
	if err != nil {
		return fmt.Errorf("%w (parsing the certificate of client key %q: %w)",
			kms.ErrNativeClientKey, key.ClientKeyId, err)
	}
	public, ok := certificate.PublicKey.(*rsa.PublicKey)
	if !ok || !claim.VerifyKey(public) {
		return kms.ErrNativeSignature
	}
	if !IsInForce(key, now) {
		return kms.ErrNativeClientKey.Saying("The client key %q is valid only from %s to %s.",
			key.ClientKeyId, kms.FormatTime(key.NotBefore), kms.FormatTime(key.NotAfter))
	}
	return nil
}

// IsInForce reports whether a client key is valid now. It is valid at NotBefore and at
// NotAfter, too.
func IsInForce(key store.ClientKey, now time.Time) bool {
	return !now.Before(key.NotBefore) && !now.After(key.NotAfter)
}

// CheckCertificate returns kms.ErrNoPermission if a connection does not present the
// recorded certificate of a client key that is in force. The certificate does not
// identify the caller; the request's signature does.
func CheckCertificate(records *store.Records, connection tls.ConnectionState, now time.Time) error {
	if len(connection.PeerCertificates) == 0 || !isRecorded(records, connection.PeerCertificates[0], now) {
		return kms.ErrNoPermission.Because(
			"This endpoint accepts only connections with the certificate of a client key that is valid now.")
	}
	return nil
}

// isRecorded reports whether a certificate is that of a client key which is in force. Client
// certificates are self-signed, so no CA can verify them: the certificate must equal the
// recorded one.
func isRecorded(records *store.Records, certificate *x509.Certificate, now time.Time) bool {
	key, err := records.ClientKeys().Get(certificate.Subject.CommonName)
	return err == nil && bytes.Equal(certificate.Raw, key.Certificate) && IsInForce(key, now)
}

// The record of a client key holds no secret, so an attacker who can write to the database
// could create a credential. Therefore the token seals the contents of each record, and a
// record that it did not seal is not a credential.

// sealedClientKey is the plaintext that the token seals. Its value does not matter: the
// additional data binds the contents of the record.
var sealedClientKey = []byte{1}

// clientKeyAAD returns the contents of a record that decide which caller it authenticates, and
// when.
func clientKeyAAD(k store.ClientKey) []byte {
	return fmt.Appendf(nil, "kmsgate client key 1|%s|%s|%d|%d|%x",
		k.ClientKeyId, k.AapName, k.NotBefore.Unix(), k.NotAfter.Unix(), sha256.Sum256(k.Certificate))
}

// SealClientKey has the token seal the contents of a client key's record, and sets k.Sealed
// to the result.
func SealClientKey(ctx context.Context, sealer hsm.Sealer, k *store.ClientKey) (err error) {
	k.Sealed, err = sealer.Seal(ctx, sealedClientKey, clientKeyAAD(*k))
	if err != nil {
		return fmt.Errorf("sealing client key %q: %w", k.ClientKeyId, err)
	}
	return nil
}

// UnsealClientKey has the token check the record of a client key. An error that is not
// transient means that the gateway did not write the record in its present form.
func UnsealClientKey(ctx context.Context, sealer hsm.Sealer, k store.ClientKey) error {
	_, err := sealer.Unseal(ctx, k.Sealed, clientKeyAAD(k))
	return err
}

// seals remembers the records that the token has unsealed, by a hash of their contents, so
// that the gateway asks the token once for each.
type seals struct {
	mu     sync.Mutex
	intact map[[sha256.Size]byte]bool // guarded by mu
}

// maxSeals is greater than the number of client keys. Changes of records can exceed it; seals
// then forgets all records.
const maxSeals = 2 * MaxClientKeys

func (s *seals) has(record [sha256.Size]byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.intact[record]
}

func (s *seals) add(record [sha256.Size]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.intact == nil || len(s.intact) >= maxSeals {
		s.intact = make(map[[sha256.Size]byte]bool)
	}
	s.intact[record] = true
}

// checkSeal returns an error if the record of a client key differs from the sealed one. Call
// it only after the caller's signature was verified, so that an unauthenticated caller cannot
// make the token do anything.
func (r *Registry) checkSeal(ctx context.Context, k store.ClientKey) error {
	aad := clientKeyAAD(k)
	record := sha256.Sum256(append(aad, k.Sealed...))
	if r.seals.has(record) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, unsealTime)
	defer cancel()
	err := UnsealClientKey(ctx, r.sealer, k)
	switch {
	case err == nil:
		r.seals.add(record)
		return nil
	case hsm.IsTransient(err):
		return err
	}
	r.logger.Error("the token cannot unseal a client key: the database was changed, or belongs to another token",
		"ClientKeyId", k.ClientKeyId, "err", err)
	return fmt.Errorf("%w (unsealing client key %q: %w)", kms.ErrNativeClientKey, k.ClientKeyId, err)
}
