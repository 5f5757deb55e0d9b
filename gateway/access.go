package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"

	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/policy"
	"github.com/kmsgate/kmsgate/store"
)

// A principal is a verified caller.
type principal struct {
	userName    string
	accessKeyId string
	policies    []*policy.Policy
}

// fullAccess is RAM's AliyunKMSFullAccess.
const fullAccess = `{"Version":"1","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*"}]}`

// authenticate makes a principal of a claim: the time is ours, the access key
// is known and active, the signature is its secret's, and the nonce was not
// used. In that order: a nonce is remembered for callers only who can sign.
func (s *Server) authenticate(ctx context.Context, claim *acs.Claim) (*principal, error) {
	now := s.Now()
	if claim.Time.Before(now.Add(-timeWindow)) || claim.Time.After(now.Add(timeWindow)) {
		return nil, errTimeStampExpired
	}
	var access store.AccessKey
	var user store.User
	err := s.Store.View(func(tx *store.Tx) (err error) {
		if access, err = tx.AccessKey(claim.AccessKeyId); err != nil {
			return errAccessKeyNotFound
		}
		user, err = tx.User(access.UserName)
		return err
	})
	if err != nil {
		return nil, err
	}
	if !access.Active {
		return nil, errAccessKeyInactive
	}
	secret, err := s.credentials.secret(ctx, access)
	if err != nil {
		return nil, fmt.Errorf("unsealing access key %s: %w", access.AccessKeyId, err)
	}
	if !claim.VerifySecret(secret) {
		if claim.WrongBodyHash {
			return nil, errSignatureMismatch.because("The content hash that was signed is not that of the body.")
		}
		return nil, errSignatureMismatch
	}
	if err := s.nonces.use(claim.AccessKeyId, claim.Nonce, claim.Time.Add(timeWindow), now); err != nil {
		return nil, err
	}
	policies, err := s.parsePolicies(user.Policies)
	if err != nil {
		return nil, fmt.Errorf("reading the policies of user %s: %w", user.UserName, err)
	}
	return &principal{user.UserName, access.AccessKeyId, policies}, nil
}

// parsePolicies parses documents, or finds them parsed: they are kept by their
// text, so nothing needs invalidating.
func (s *Server) parsePolicies(documents []string) ([]*policy.Policy, error) {
	policies := make([]*policy.Policy, 0, len(documents))
	for _, document := range documents {
		if p, ok := s.parsed.Load(document); ok {
			policies = append(policies, p.(*policy.Policy))
			continue
		}
		p, err := policy.Parse(document)
		if err != nil {
			return nil, err
		}
		s.parsed.Store(document, p)
		policies = append(policies, p)
	}
	return policies, nil
}

// credentials keeps unsealed secrets in memory, so that clients can sign in
// while the token is down. They are kept by all that they are bound to: a
// sealed secret that was copied to another access key is not found here, and
// the token refuses to unseal it.
type credentials struct {
	sealer  hsm.Sealer
	secrets sync.Map // AccessKeyId and Sealed → string
}

func (c *credentials) keep(a store.AccessKey, secret string) {
	c.secrets.Store(a.AccessKeyId+"|"+string(a.Sealed), secret)
}

func (c *credentials) secret(ctx context.Context, a store.AccessKey) (string, error) {
	if secret, ok := c.secrets.Load(a.AccessKeyId + "|" + string(a.Sealed)); ok {
		return secret.(string), nil
	}
	secret, err := c.sealer.Unseal(ctx, a.Sealed, secretAAD(a.AccessKeyId))
	if err != nil {
		return "", err
	}
	c.keep(a, string(secret))
	return string(secret), nil
}

// secretAAD binds a sealed secret to its access key's id.
func secretAAD(accessKeyId string) []byte { return []byte("kmsgate access key 1|" + accessKeyId) }

// AccessKeySecret gives the secret of an access key. It is for `kmsgate dev`,
// which tells its user the same credentials at every start.
func (s *Server) AccessKeySecret(ctx context.Context, a store.AccessKey) (string, error) {
	return s.credentials.secret(ctx, a)
}

type createUserRequest struct {
	UserName       string `kms:"required"`
	PolicyDocument string // AliyunKMSFullAccess if empty
}

type createUserResponse struct {
	result
	UserName string
}

func createUser(_ context.Context, c *call, req *createUserRequest) (*createUserResponse, error) {
	c.entry.Subject = clip(req.UserName)
	document := req.PolicyDocument
	if document == "" {
		document = fullAccess
	}
	if _, err := policy.Parse(document); err != nil {
		return nil, invalidParameter("PolicyDocument", "%s", err)
	}
	if err := c.commit(); err != nil {
		return nil, err
	}
	return &createUserResponse{UserName: req.UserName}, c.change(func(tx *store.Tx) error {
		return tx.PutUser(store.User{UserName: req.UserName, Policies: []string{document}, CreationDate: c.now})
	})
}

type createAccessKeyRequest struct {
	UserName string `kms:"required"`
}

// createAccessKeyResponse is the only answer that shows the secret.
type createAccessKeyResponse struct {
	result
	AccessKeyId     string
	AccessKeySecret string
}

func createAccessKey(ctx context.Context, c *call, req *createAccessKeyRequest) (*createAccessKeyResponse, error) {
	err := c.server.Store.View(func(tx *store.Tx) error {
		_, err := tx.User(req.UserName)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, invalidParameter("UserName", "there is no user %q", req.UserName)
	}
	if err := c.commit(); err != nil {
		return nil, err
	}
	// 120 and 130 random bits, as text.
	id, secret := "KMSG"+rand.Text()[:24], rand.Text()
	sealed, err := c.server.Sealer.Seal(ctx, []byte(secret), secretAAD(id))
	if err != nil {
		return nil, fmt.Errorf("sealing an access key's secret: %w", err)
	}
	c.entry.Subject = clip(req.UserName) + "/" + id
	access := store.AccessKey{AccessKeyId: id, UserName: req.UserName, Sealed: sealed, Active: true, CreationDate: c.now}
	c.server.credentials.keep(access, secret)
	return &createAccessKeyResponse{AccessKeyId: id, AccessKeySecret: secret}, c.change(func(tx *store.Tx) error {
		return tx.PutAccessKey(access)
	})
}
