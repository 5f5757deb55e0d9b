package identity

import (
	"fmt"
	"sync"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/policy"
	"github.com/kmsgate/kmsgate/store"
)

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
