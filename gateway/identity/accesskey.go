package identity

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// AccessKey makes a principal of the claim of an access key: the time is ours, the access key
// is known and active, the signature is its secret's, and the nonce was not
// used. In that order: a nonce is remembered for callers only who can sign. All
// of it is done in memory: a stranger cannot have the token do anything.
func (r *Registry) AccessKey(records *store.Records, claim *acs.Claim, now time.Time) (*Principal, error) {
	if claim.Time.Before(now.Add(-TimeWindow)) || claim.Time.After(now.Add(TimeWindow)) {
		return nil, kms.ErrTimeStampExpired
	}
	access, err := records.AccessKeys().Get(claim.AccessKeyId)
	if errors.Is(err, store.ErrNotFound) {
		return nil, kms.ErrAccessKeyNotFound
	}
	if err != nil {
		return nil, err
	}
	if !access.Active {
		return nil, kms.ErrAccessKeyInactive
	}
	secret, err := r.Secret(access)
	if err != nil {
		return nil, err
	}
	if !claim.VerifySecret(secret) {
		if claim.WrongBodyHash {
			return nil, kms.ErrSignatureMismatch.Because("The content hash that was signed is not that of the body.")
		}
		return nil, kms.ErrSignatureMismatch
	}
	if err := r.nonces.use(claim.AccessKeyId, claim.Nonce, claim.Time.Add(TimeWindow), now); err != nil {
		return nil, err
	}
	r.secrets.use(access.AccessKeyId, now)
	user, err := records.Users().Get(access.UserName)
	if err != nil {
		return nil, err
	}
	return r.User(records, user)
}

// secretAAD binds a sealed secret to its access key's id.
func secretAAD(accessKeyId string) []byte { return []byte("kmsgate access key 1|" + accessKeyId) }

// SealAccessKey seals the secret of an access key into its record.
func SealAccessKey(ctx context.Context, sealer hsm.Sealer, a *store.AccessKey, secret string) (err error) {
	if a.Sealed, err = sealer.Seal(ctx, []byte(secret), secretAAD(a.AccessKeyId)); err != nil {
		return fmt.Errorf("sealing an access key's secret: %w", err)
	}
	return nil
}

// UnsealAccessKey has the token unseal the secret of an access key.
func UnsealAccessKey(ctx context.Context, sealer hsm.Sealer, a store.AccessKey) (string, error) {
	secret, err := sealer.Unseal(ctx, a.Sealed, secretAAD(a.AccessKeyId))
	return string(secret), err
}

// secrets keeps unsealed secrets in memory, so that clients can sign in
// while the token is down. They are kept by all that they are bound to: a
// sealed secret that was copied to another access key is not found here, and
// the token refuses to unseal it.
type secrets struct {
	unsealed sync.Map // AccessKeyId and Sealed → string

	mu   sync.Mutex
	used map[string]time.Time // AccessKeyId → since the last RecordUse; guarded by mu
}

// Keep keeps the secret of an access key. The record may be written only after that: a
// caller who finds a record expects its secret to be there.
func (r *Registry) Keep(a store.AccessKey, secret string) {
	r.secrets.unsealed.Store(a.AccessKeyId+"|"+string(a.Sealed), secret)
}

// Drop forgets the secret of an access key.
func (r *Registry) Drop(a store.AccessKey) {
	r.secrets.unsealed.Delete(a.AccessKeyId + "|" + string(a.Sealed))
}

var errNotUnsealed = errors.New("the access key's record was changed behind the gateway's back: restart it")

// Secret returns the secret of an access key.
func (r *Registry) Secret(a store.AccessKey) (string, error) {
	secret, ok := r.secrets.unsealed.Load(a.AccessKeyId + "|" + string(a.Sealed))
	if !ok {
		return "", fmt.Errorf("access key %s: %w", a.AccessKeyId, errNotUnsealed)
	}
	return secret.(string), nil
}

// use notes that an access key was used.
func (s *secrets) use(accessKeyId string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used == nil {
		s.used = make(map[string]time.Time)
	}
	s.used[accessKeyId] = now.UTC()
}

func (s *secrets) takeUsed() map[string]time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	used := s.used
	s.used = nil
	return used
}

// LastUsed returns when an access key was used last; zero if never.
func (r *Registry) LastUsed(a store.AccessKey) time.Time {
	r.secrets.mu.Lock()
	defer r.secrets.mu.Unlock()
	if used, ok := r.secrets.used[a.AccessKeyId]; ok {
		return used
	}
	return a.LastUsedDate
}

// RecordUse writes down when access keys were used last.
func (r *Registry) RecordUse(db *store.Store) {
	used := r.secrets.takeUsed()
	if len(used) == 0 {
		return
	}
	err := db.Update(func(tx *store.Tx) error {
		for id, at := range used {
			a, err := tx.AccessKeys().Get(id)
			if errors.Is(err, store.ErrNotFound) {
				continue // deleted meanwhile
			}
			if err != nil {
				return err
			}
			a.LastUsedDate = at
			if err := tx.AccessKeys().Put(a); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		r.logger.Warn("when access keys were used last could not be written down", "error", err)
	}
}
