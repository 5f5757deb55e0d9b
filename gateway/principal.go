package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/policy"
	"github.com/kmsgate/kmsgate/store"
)

// A principal is a verified caller.
type principal struct {
	user        store.User
	arn         string
	root        bool   // a local administrator: the owner of the account, in KMS's words
	accessPoint string // the name of the access point that it is, which has no policies of this kind: see permission.go
	policies    []policy.Named
}

// newRoot makes the principal of a local administrator.
func (s *Server) newRoot(uid uint32) *principal {
	return &principal{user: store.User{UserName: fmt.Sprintf("local:%d", uid)}, arn: s.arns.Root(), root: true, policies: rootPolicies}
}

// authenticate makes a principal of a claim: the time is ours, the access key
// is known and active, the signature is its secret's, and the nonce was not
// used. In that order: a nonce is remembered for callers only who can sign. All
// of it is done in memory: a stranger cannot have the token do anything.
func (s *Server) authenticate(records *store.Records, claim *acs.Claim) (*principal, error) {
	now := s.Now()
	if claim.Time.Before(now.Add(-timeWindow)) || claim.Time.After(now.Add(timeWindow)) {
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
	secret, err := s.credentials.secret(access)
	if err != nil {
		return nil, err
	}
	if !claim.VerifySecret(secret) {
		if claim.WrongBodyHash {
			return nil, kms.ErrSignatureMismatch.Because("The content hash that was signed is not that of the body.")
		}
		return nil, kms.ErrSignatureMismatch
	}
	if err := s.nonces.use(claim.AccessKeyId, claim.Nonce, claim.Time.Add(timeWindow), now); err != nil {
		return nil, err
	}
	s.credentials.use(access.AccessKeyId, now)
	user, err := records.Users().Get(access.UserName)
	if err != nil {
		return nil, err
	}
	return s.principalOf(records, user)
}

func (s *Server) principalOf(records *store.Records, user store.User) (*principal, error) {
	p := &principal{user: user, arn: s.arns.User(user.UserName)}
	for _, name := range user.Policies {
		document, err := policyDocument(records, name)
		if err != nil {
			return nil, fmt.Errorf("the policy %s of user %s: %w", name, user.UserName, err)
		}
		parsed, err := s.policies.get(document)
		if err != nil {
			return nil, fmt.Errorf("the policy %s of user %s: %w", name, user.UserName, err)
		}
		p.policies = append(p.policies, policy.Named{Name: name, Policy: parsed})
	}
	return p, nil
}

// decide evaluates a principal's policies, and those of a key if the resource is
// one. A key policy that cannot be parsed denies everybody but the account's
// owner, who can set another.
func (s *Server) decide(records *store.Records, p *principal, action, resource string, key *store.Key, values map[string]string) (policy.Decision, error) {
	policies := p.policies
	if key != nil {
		for name, value := range key.Tags {
			values["kms:tag/"+name] = value
		}
	}
	if key != nil && key.Policy != "" {
		parsed, err := s.keyPolicies.get(key.Policy)
		if err != nil && !p.root {
			return policy.Decision{}, fmt.Errorf("%w (the policy of key %s: %w)", kms.ErrNoPermission, key.KeyId, err)
		}
		if err == nil {
			policies = append(policies[:len(policies):len(policies)], policy.Named{Name: keyPolicyName, Policy: parsed})
		}
	}
	request := policy.Request{Action: "kms:" + action, Resource: resource, Principal: p.arn, Values: values}
	if p.accessPoint != "" {
		return s.decideForAccessPoint(records, p, request, policies), nil
	}
	return policy.Decide(policies, request), nil
}

// keyPolicyName is how decisions call the policy of the key itself. No policy of
// users can have a name with spaces.
const keyPolicyName = "the key policy"

// documents keeps policies parsed, by their text, so nothing needs invalidating.
// There are few of them in use; if there come to be many, all are dropped.
type documents struct {
	parse func(string) (*policy.Policy, error)

	mu     sync.RWMutex
	parsed map[string]*policy.Policy // guarded by mu
}

const maxDocuments = 1024

func (d *documents) get(document string) (*policy.Policy, error) {
	d.mu.RLock()
	p, ok := d.parsed[document]
	d.mu.RUnlock()
	if ok {
		return p, nil
	}
	p, err := d.parse(document)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.parsed == nil || len(d.parsed) >= maxDocuments {
		d.parsed = make(map[string]*policy.Policy)
	}
	d.parsed[document] = p
	return p, nil
}

// credentials keeps unsealed secrets in memory, so that clients can sign in
// while the token is down. They are kept by all that they are bound to: a
// sealed secret that was copied to another access key is not found here, and
// the token refuses to unseal it.
type credentials struct {
	secrets sync.Map // AccessKeyId and Sealed → string

	mu   sync.Mutex
	used map[string]time.Time // AccessKeyId → since the last takeUsed; guarded by mu
}

func (c *credentials) keep(a store.AccessKey, secret string) {
	c.secrets.Store(a.AccessKeyId+"|"+string(a.Sealed), secret)
}

func (c *credentials) drop(a store.AccessKey) {
	c.secrets.Delete(a.AccessKeyId + "|" + string(a.Sealed))
}

var errNotUnsealed = errors.New("the access key's record was changed behind the gateway's back: restart it")

func (c *credentials) secret(a store.AccessKey) (string, error) {
	secret, ok := c.secrets.Load(a.AccessKeyId + "|" + string(a.Sealed))
	if !ok {
		return "", fmt.Errorf("access key %s: %w", a.AccessKeyId, errNotUnsealed)
	}
	return secret.(string), nil
}

func (c *credentials) unseal(ctx context.Context, sealer hsm.Sealer, a store.AccessKey) error {
	secret, err := sealer.Unseal(ctx, a.Sealed, secretAAD(a.AccessKeyId))
	if err == nil {
		c.keep(a, string(secret))
	}
	return err
}

// use notes that an access key was used.
func (c *credentials) use(accessKeyId string, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.used == nil {
		c.used = make(map[string]time.Time)
	}
	c.used[accessKeyId] = now.UTC()
}

func (c *credentials) takeUsed() map[string]time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	used := c.used
	c.used = nil
	return used
}

// lastUsed gives when an access key was used last.
func (c *credentials) lastUsed(a store.AccessKey) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if used, ok := c.used[a.AccessKeyId]; ok {
		return used
	}
	return a.LastUsedDate
}

// recordUse writes down when access keys were used last.
func (s *Server) recordUse() {
	used := s.credentials.takeUsed()
	if len(used) == 0 {
		return
	}
	err := s.Store.Update(func(tx *store.Tx) error {
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
		s.Logger.Warn("when access keys were used last could not be written down", "error", err)
	}
}

// secretAAD binds a sealed secret to its access key's id.
func secretAAD(accessKeyId string) []byte { return []byte("kmsgate access key 1|" + accessKeyId) }

// AccessKeySecret gives the secret of an access key. It is for `kmsgate dev`,
// which tells its user the same credentials at every start.
func (s *Server) AccessKeySecret(a store.AccessKey) (string, error) { return s.credentials.secret(a) }
