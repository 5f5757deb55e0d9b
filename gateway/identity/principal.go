package identity

import (
	"fmt"
	"sync"

	"github.com/kmsgate/kmsgate/gateway/kms"
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

// A Question asks whether an action on a resource is allowed.
type Question struct {
	Action   string            // as KMS spells it, without "kms:"
	Resource string            // an ARN
	Key      *store.Key        // the key that Resource names, if it names one
	Values   map[string]string // of condition keys; not nil with a Key: Decide adds its tags
}

// Decide evaluates a principal's policies and, if q.Key is set, the key's policy. A key
// policy that cannot be parsed is a kms.ErrNoPermission for everybody except the account's
// owner, who can set another one.
func (r *Registry) Decide(records *store.Records, p *Principal, q Question) (policy.Decision, error) {
	policies := p.policies
	if q.Key != nil {
		for name, value := range q.Key.Tags {
			q.Values["kms:tag/"+name] = value
		}
	}
	if q.Key != nil && q.Key.Policy != "" {
		parsed, err := r.keyPolicies.get(q.Key.Policy)
		if err != nil && !p.root {
			return policy.Decision{}, fmt.Errorf("%w (the policy of key %s: %w)", kms.ErrNoPermission, q.Key.KeyId, err)
		}
		if err == nil {
			policies = append(policies[:len(policies):len(policies)], policy.Named{Name: keyPolicyName, Policy: parsed})
		}
	}
	request := policy.Request{Action: "kms:" + q.Action, Resource: q.Resource, Principal: p.arn, Values: q.Values}
	if p.accessPoint != "" {
		return r.decideForAccessPoint(records, p, request, policies), nil
	}
	return policy.Decide(policies, request), nil
}

// keyPolicyName is how decisions call the policy of the key itself. No policy of
// users can have a name with spaces.
const keyPolicyName = "the key policy"

// documents caches parsed policies by their text, so nothing needs invalidating. Few are in
// use; when there are maxDocuments, all are dropped.
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
