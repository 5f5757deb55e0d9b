package identity

import (
	"fmt"
	"strings"
	"sync"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/policy"
	"github.com/kmsgate/kmsgate/store"
)

// A Question asks whether an action on a resource is allowed.
type Question struct {
	Action   string        // in KMS's spelling, without "kms:"
	Resource string        // an ARN
	Values   policy.Values // without the key's tags; must not be nil if the question is about a key
}

// keyValues are values with the tags of a key.
type keyValues struct {
	policy.Values
	tags map[string]string
}

// Value implements policy.Values.
func (v keyValues) Value(key string) (value string, ok bool) {
	if name, isTag := strings.CutPrefix(key, "kms:tag/"); isTag {
		value, ok = v.tags[name]
		return value, ok
	}
	return v.Values.Value(key)
}

// Decide evaluates a principal's policies and the policy of the key that q is about. key is nil if q is
// about no key, or the key does not exist. If the key policy cannot be parsed, the error is
// kms.ErrNoPermission. For the owner of the account, who must be able to set another one, Decide ignores
// such a policy.
//
// key is not a field of q, because q escapes: each call would copy the record, 300 bytes, to the heap.
func (r *Registry) Decide(records *store.Records, p *Principal, q Question, key *store.Key) (policy.Decision, error) {
	policies := p.policies
	if key != nil && len(key.Tags) > 0 {
		q.Values = keyValues{q.Values, key.Tags}
	}
	if key != nil && key.Policy != "" {
		parsed, err := r.keyPolicies.get(key.Policy)
		if err != nil && !p.root {
			return policy.Decision{}, fmt.Errorf("%w (parsing the policy of key %q: %w)",
				kms.ErrNoPermission, key.KeyId, err)
		}
		if err == nil {
			policies = append(policies[:len(policies):len(policies)], policy.Named{Name: keyPolicyName, Policy: parsed})
		}
	}
	request := policy.Request{Action: requestAction(q.Action), Resource: q.Resource, Principal: p.arn, Values: q.Values}
	if p.accessPoint != "" {
		return r.decideForAccessPoint(records, p, q.Action, request, policies), nil
	}
	return policy.Decide(policies, request), nil
}

// requestActions maps an operation to its action in lower case. It saves each decision two allocations.
var requestActions = func() map[string]string {
	all := make(map[string]string)
	for _, o := range kms.Operations {
		all[o.Name] = strings.ToLower("kms:" + o.Name)
	}
	return all
}()

func requestAction(action string) string {
	if known, ok := requestActions[action]; ok {
		return known
	}
	return "kms:" + action
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
