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
	Action   string            // in KMS's spelling, without "kms:"
	Resource string            // an ARN
	Key      *store.Key        // the key that Resource names, or nil
	Values   map[string]string // by condition key; must not be nil if Key is set: Decide adds the key's tags
}

// Decide evaluates a principal's policies and, if q.Key is set, the key's policy. If the key
// policy cannot be parsed, the error is kms.ErrNoPermission. For the owner of the account,
// who must be able to set another one, Decide ignores such a policy.
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
			return policy.Decision{}, fmt.Errorf("%w (parsing the policy of key %q: %w)",
				kms.ErrNoPermission, q.Key.KeyId, err)
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

// keyPolicyName is the name of a key's policy in decisions. It differs from the names of RAM
// policies, which have no spaces.
const keyPolicyName = "the key policy"

// documents caches parsed policies by their text, so no entry ever becomes invalid. Few are in
// use. When it holds maxDocuments, it drops all.
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
