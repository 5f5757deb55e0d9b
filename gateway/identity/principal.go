package identity

import (
	"fmt"

	"github.com/kmsgate/kmsgate/policy"
	"github.com/kmsgate/kmsgate/store"
)

// A Principal is an authenticated caller. It does not change.
type Principal struct {
	// Name is the user's name, local:<uid> for a local administrator, or
	// [AccessPointUser] and the name of an access point.
	Name   string
	Quotas map[string]float64 // the user's own limits, in queries per second, by the quota's name

	arn         string
	root        bool   // a local administrator: the owner of the account, in KMS's words
	accessPoint string // the name of the access point that it is, which has no policies of this kind: see permission.go
	policies    []policy.Named
}

// Root returns the principal of a local administrator.
func (r *Registry) Root(uid uint32) *Principal {
	return &Principal{Name: fmt.Sprintf("local:%d", uid), arn: r.arns.Root(), root: true, policies: rootPolicies}
}

// User returns the principal of a user, with the user's policies as they are in records. A
// policy that is missing or cannot be parsed is an error, since it may be one that denies.
func (r *Registry) User(records *store.Records, user store.User) (*Principal, error) {
	p := &Principal{Name: user.UserName, Quotas: user.Quotas, arn: r.arns.User(user.UserName)}
	for _, name := range user.Policies {
		document, err := PolicyDocument(records, name)
		if err != nil {
			return nil, fmt.Errorf("the policy %s of user %s: %w", name, user.UserName, err)
		}
		parsed, err := r.ramPolicies.get(document)
		if err != nil {
			return nil, fmt.Errorf("the policy %s of user %s: %w", name, user.UserName, err)
		}
		p.policies = append(p.policies, policy.Named{Name: name, Policy: parsed})
	}
	return p, nil
}
