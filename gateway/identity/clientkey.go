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

// MaxClientKeys is how many client keys there can be.
const MaxClientKeys = 10_000

// ClientKey verifies the claim of a client key and returns its access point. It checks, in
// this order, that the time is within TimeWindow, the client key exists, the signature is
// valid, the client key is in force, and the token sealed its record. The token is asked
// once for each record. The native API has no nonce, so no operation that changes
// anything may be offered there.
func (r *Registry) ClientKey(ctx context.Context, records *store.Records, claim *acs.Claim, now time.Time) (*Principal, error) {
	if claim.Time.Before(now.Add(-TimeWindow)) || claim.Time.After(now.Add(TimeWindow)) {
		return nil, kms.ErrNativeTime
	}
	key, err := records.ClientKeys().Get(claim.AccessKeyId)
	if errors.Is(err, store.ErrNotFound) {
		return nil, kms.ErrNativeClientKey.Saying("The AccessKey ID %q does not exist in our records.", kms.Clip(claim.AccessKeyId))
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
	if err := r.checkSeal(ctx, key); err != nil {
		return nil, err
	}
	return p, nil
}

func checkClientKey(key store.ClientKey, claim *acs.Claim, now time.Time) error {
	certificate, err := x509.ParseCertificate(key.Certificate)
	if err != nil {
		return fmt.Errorf("%w (its record: %w)", kms.ErrNativeClientKey, err)
	}
	public, ok := certificate.PublicKey.(*rsa.PublicKey)
	if !ok || !claim.VerifyKey(public) {
		return kms.ErrNativeSignature
	}
	if !IsInForce(key, now) {
		return kms.ErrNativeClientKey.Saying("The client key %q is valid from %s to %s only.", key.ClientKeyId, kms.FormatTime(key.NotBefore), kms.FormatTime(key.NotAfter))
	}
	return nil
}

// IsInForce reports whether a client key is valid at a time. Both its bounds are.
func IsInForce(key store.ClientKey, now time.Time) bool {
	return !now.Before(key.NotBefore) && !now.After(key.NotAfter)
}

// CheckCertificate returns kms.ErrNoPermission if a connection does not present the
// recorded certificate of a client key that is in force. The certificate does not
// identify the caller; the request's signature does.
func CheckCertificate(records *store.Records, connection tls.ConnectionState, now time.Time) error {
	if len(connection.PeerCertificates) == 0 || !isValid(records, connection.PeerCertificates[0], now) {
		return kms.ErrNoPermission.Because("This endpoint accepts only connections with the certificate of a client key that is valid now.")
	}
	return nil
}

// isValid reports whether a certificate is that of a client key which is valid now. A
// certificate of ours signs itself, so there is nothing to verify it with: it has to be
// the recorded one, to the byte.
func isValid(records *store.Records, certificate *x509.Certificate, now time.Time) bool {
	key, err := records.ClientKeys().Get(certificate.Subject.CommonName)
	return err == nil && bytes.Equal(certificate.Raw, key.Certificate) && IsInForce(key, now)
}

// A client key's record holds no secret: whoever could write one into the database
// would have a credential. So the token seals what a record says, and what it has not
// sealed is none.

// sealedClientKey is what is sealed; what matters is what it is sealed with.
var sealedClientKey = []byte{1}

// clientKeyAAD is all that a record says of who may do something, and when.
func clientKeyAAD(k store.ClientKey) []byte {
	return fmt.Appendf(nil, "kmsgate client key 1|%s|%s|%d|%d|%x", k.ClientKeyId, k.AapName, k.NotBefore.Unix(), k.NotAfter.Unix(), sha256.Sum256(k.Certificate))
}

// SealClientKey has the token seal all that the record of a client key says, and sets
// k.Sealed.
func SealClientKey(ctx context.Context, sealer hsm.Sealer, k *store.ClientKey) (err error) {
	k.Sealed, err = sealer.Seal(ctx, sealedClientKey, clientKeyAAD(*k))
	if err != nil {
		return fmt.Errorf("sealing a client key: %w", err)
	}
	return nil
}

// UnsealClientKey has the token check the record of a client key. Unless the error is
// transient, it means that the gateway did not write the record as it is.
func UnsealClientKey(ctx context.Context, sealer hsm.Sealer, k store.ClientKey) error {
	_, err := sealer.Unseal(ctx, k.Sealed, clientKeyAAD(k))
	return err
}

// seals remembers which records the token has unsealed, by all that they say, so that
// it is asked once for each.
type seals struct {
	mu     sync.Mutex
	intact map[[sha256.Size]byte]bool // guarded by mu
}

// maxSeals is more than there are client keys. If there come to be more, all are
// forgotten.
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

// checkSeal refuses a client key whose record is not as it was sealed. It is for
// callers who have shown that they have the key: a stranger cannot have the token do
// anything.
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
	r.logger.Error("the token does not unseal the record of a client key: somebody has changed the database, or it is another token's", "ClientKeyId", k.ClientKeyId, "reason", err)
	return fmt.Errorf("%w (its record: %w)", kms.ErrNativeClientKey, err)
}
