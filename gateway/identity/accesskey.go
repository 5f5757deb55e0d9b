package identity

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// AccessKey verifies the claim of an access key and returns its user. It checks, in this
// order, that the time is within TimeWindow, the access key exists and is active, the
// signature is valid, and the nonce is unused. Package kms has an error for each of these.
// Only the nonces of valid signatures are remembered. All checks work in memory, so an
// unauthenticated caller cannot make the token do anything.
func (r *Registry) AccessKey(records *store.Records, claim *acs.Claim, now time.Time) (*Principal, error) {
	if err := CheckTime(claim.Time, now); err != nil {
		return nil, err
	}
	access, err := ActiveAccessKey(records, claim.AccessKeyId)
	if err != nil {
		return nil, err
	}
	secret, err := r.secrets.get(access)
	if err != nil {
		return nil, err
	}
	if !claim.VerifySecret(secret) {
		if claim.WrongBodyHash {
			return nil, kms.ErrSignatureMismatch.Because("The signed content hash does not match the body.")
		}
		return nil, kms.ErrSignatureMismatch
	}
	if err := r.nonces.use(access.AccessKeyId, claim.Nonce, claim.Time.Add(TimeWindow), now); err != nil {
		return nil, err
	}
	r.secrets.setUsed(access.AccessKeyId, now)
	return r.principals.get(records, access.UserName, r.userNamed)
}

// userNamed returns the principal of the user with a name.
func (r *Registry) userNamed(records *store.Records, userName string) (*Principal, error) {
	user, err := records.Users().Get(userName)
	if err != nil {
		return nil, err
	}
	return r.User(records, user)
}

// CheckTime returns kms.ErrTimeStampExpired if the time stamp of a request is not within
// TimeWindow. A door can call it before it has the whole request; AccessKey calls it again.
func CheckTime(stamp, now time.Time) error {
	if stamp.Before(now.Add(-TimeWindow)) || stamp.After(now.Add(TimeWindow)) {
		return kms.ErrTimeStampExpired
	}
	return nil
}

// ActiveAccessKey returns the record of an access key, kms.ErrAccessKeyNotFound or
// kms.ErrAccessKeyInactive. A door can call it before it has the whole request; AccessKey calls
// it again.
func ActiveAccessKey(records *store.Records, accessKeyId string) (store.AccessKey, error) {
	access, err := records.AccessKeys().Get(accessKeyId)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return store.AccessKey{}, kms.ErrAccessKeyNotFound
	case err != nil:
		return store.AccessKey{}, err
	case !access.Active:
		return store.AccessKey{}, kms.ErrAccessKeyInactive
	}
	return access, nil
}

// secretAAD returns the additional data that binds a sealed secret to its AccessKeyId.
func secretAAD(accessKeyId string) []byte { return []byte("kmsgate access key 1|" + accessKeyId) }

// SealAccessKey has the token seal the secret of an access key, bound to its AccessKeyId,
// and sets a.Sealed to the result.
func SealAccessKey(ctx context.Context, sealer hsm.Sealer, a *store.AccessKey, secret string) (err error) {
	if a.Sealed, err = sealer.Seal(ctx, []byte(secret), secretAAD(a.AccessKeyId)); err != nil {
		return fmt.Errorf("sealing the secret of access key %q: %w", a.AccessKeyId, err)
	}
	return nil
}

// UnsealAccessKey has the token unseal the secret of an access key. It fails if the secret
// was sealed for another AccessKeyId.
func UnsealAccessKey(ctx context.Context, sealer hsm.Sealer, a store.AccessKey) (string, error) {
	secret, err := sealer.Unseal(ctx, a.Sealed, secretAAD(a.AccessKeyId))
	return string(secret), err
}

// secrets keeps unsealed secrets in memory, so that clients can authenticate while the
// token is down. The map's key has everything that a secret is bound to. If a sealed secret
// is copied to another access key, the map has no entry for it, and the token refuses to
// unseal it.
type secrets struct {
	mu       sync.RWMutex
	unsealed map[sealedSecret]*acs.Secret // guarded by mu

	usesMu   sync.Mutex
	lastUsed map[string]time.Time // by AccessKeyId; uses since the last RecordUse; guarded by usesMu
}

// A sealedSecret is what a secret is bound to.
type sealedSecret struct{ accessKeyId, sealed string }

// Keep stores the secret of an access key in memory. The caller must call it before writing
// the record: AccessKey expects the secret of every record.
func (r *Registry) Keep(a store.AccessKey, secret string) {
	s := &r.secrets
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unsealed == nil {
		s.unsealed = make(map[sealedSecret]*acs.Secret)
	}
	s.unsealed[sealedSecret{a.AccessKeyId, string(a.Sealed)}] = acs.NewSecret(secret)
}

// Drop removes the secret of an access key from memory.
func (r *Registry) Drop(a store.AccessKey) {
	s := &r.secrets
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.unsealed, sealedSecret{a.AccessKeyId, string(a.Sealed)})
}

var errNotUnsealed = errors.New("its record was not written by the running gateway (restart the gateway)")

// Secret returns the secret of an access key from memory. It fails if the record differs
// from the one for which Keep or Open stored the secret.
func (r *Registry) Secret(a store.AccessKey) (string, error) {
	secret, err := r.secrets.get(a)
	if err != nil {
		return "", err
	}
	return secret.Text(), nil
}

func (s *secrets) get(a store.AccessKey) (*acs.Secret, error) {
	s.mu.RLock()
	secret, ok := s.unsealed[sealedSecret{a.AccessKeyId, string(a.Sealed)}]
	s.mu.RUnlock()
	if !ok {
		return nil, fmt.Errorf("access key %q: %w", a.AccessKeyId, errNotUnsealed)
	}
	return secret, nil
}

// setUsed records that an access key was used now.
func (s *secrets) setUsed(accessKeyId string, now time.Time) {
	s.usesMu.Lock()
	defer s.usesMu.Unlock()
	if s.lastUsed == nil {
		s.lastUsed = make(map[string]time.Time)
	}
	s.lastUsed[accessKeyId] = now.UTC()
}

// takeUsed returns lastUsed and empties it.
func (s *secrets) takeUsed() map[string]time.Time {
	s.usesMu.Lock()
	defer s.usesMu.Unlock()
	used := s.lastUsed
	s.lastUsed = nil
	return used
}

// LastUsed returns when an access key was last used, including uses that RecordUse has not
// written yet. The time is zero if the access key was never used.
func (r *Registry) LastUsed(a store.AccessKey) time.Time {
	r.secrets.usesMu.Lock()
	defer r.secrets.usesMu.Unlock()
	if used, ok := r.secrets.lastUsed[a.AccessKeyId]; ok {
		return used
	}
	return a.LastUsedDate
}

// RecordUse writes the times when access keys were last used to their records. It logs a
// failure.
func (r *Registry) RecordUse(db *store.Store) {
	used := r.secrets.takeUsed()
	if len(used) == 0 {
		return
	}
	var err error
	for ids := range slices.Chunk(slices.Collect(maps.Keys(used)), store.MaxWrites) {
		err = errors.Join(err, db.Update(func(tx *store.Tx) error {
			for _, id := range ids {
				a, err := tx.AccessKeys().Get(id)
				if errors.Is(err, store.ErrNotFound) {
					continue // deleted since its use
				}
				if err != nil {
					return err
				}
				a.LastUsedDate = used[id]
				if err := tx.AccessKeys().Put(a); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	if err != nil {
		r.logger.Warn("cannot record when access keys were last used", "err", err)
	}
}
