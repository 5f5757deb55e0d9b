package identity

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/policy"
	"github.com/kmsgate/kmsgate/store"
)

// A Principal is an authenticated caller. It does not change.
type Principal struct {
	// Name is the user's name, local:<uid> for a local administrator, or
	// [AccessPointUser] and the name of an access point.
	Name string
	// OnBehalfOf is the user whose policies and quotas apply to a local administrator's call,
	// or empty.
	OnBehalfOf string
	Quotas     map[string]float64 // the limits of this user, in queries per second, by the quota's name

	arn         string
	root        bool   // a local administrator, in KMS's words the owner of the account
	accessPoint string // the name of an access point, which has no policies here: see decideForAccessPoint
	policies    []policy.Named
}

// Root returns the principal of a local administrator.
func (r *Registry) Root(uid uint32) *Principal {
	return &Principal{
		Name:     fmt.Sprintf("local:%d", uid),
		arn:      r.arns.Root(),
		root:     true,
		policies: rootPolicies,
	}
}

// OnBehalf returns the principal of a local administrator who asks on behalf of a user. It has
// the user's policies, quotas and ARN. The error is kms.ErrUserNotFound if no such user
// exists.
func (r *Registry) OnBehalf(records *store.Records, uid uint32, userName string) (*Principal, error) {
	user, err := records.Users().Get(userName)
	if errors.Is(err, store.ErrNotFound) {
		return nil, kms.ErrUserNotFound
	}
	if err != nil {
		return nil, err
	}
	p, err := r.User(records, user)
	if err != nil {
		return nil, err
	}
	p.Name, p.OnBehalfOf = r.Root(uid).Name, userName
	return p, nil
}

// QuotaUser returns the name that quotas are counted under.
func (p *Principal) QuotaUser() string { return cmp.Or(p.OnBehalfOf, p.Name) }

// User returns the principal of a user, with the user's policies from records. A policy that
// is missing or cannot be parsed is an error, because it could be one that denies.
func (r *Registry) User(records *store.Records, user store.User) (*Principal, error) {
	p := &Principal{Name: user.UserName, Quotas: user.Quotas, arn: r.arns.User(user.UserName),
		policies: make([]policy.Named, 0, len(user.Policies))}
	for _, name := range user.Policies {
		document, err := PolicyDocument(records, name)
		if err != nil {
			return nil, fmt.Errorf("finding policy %q of user %q: %w", name, user.UserName, err)
		}
		parsed, err := r.ramPolicies.get(document)
		if err != nil {
			return nil, fmt.Errorf("parsing policy %q of user %q: %w", name, user.UserName, err)
		}
		p.policies = append(p.policies, policy.Named{Name: name, Policy: parsed})
	}
	return p, nil
}
