package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"

	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/store"
)

// sharedInstance is the other KmsInstance that KMS has. What is permitted here is
// the same.
const sharedInstance = "shared"

var permissionPolicies = collection[store.PermissionPolicy]{"permission policy", (*store.Records).PermissionPolicies, (*store.Tx).PermissionPolicies}

func parsePermissions(text string) ([]string, error) {
	return parseNames("Permissions", text, 1, 2, func(permission string) error {
		if permission != identity.KeyUser && permission != identity.SecretUser {
			return kms.InvalidParameter("Permissions", "%q is neither %s nor %s", kms.Clip(permission), identity.KeyUser, identity.SecretUser)
		}
		return nil
	})
}

func parseResources(text string) ([]string, error) {
	return parseNames("Resources", text, 1, kms.MaxList, func(resource string) error {
		if !identity.IsPermissionResource(resource) {
			return kms.InvalidParameter("Resources", "%q is not key/<KeyId> (no alias), key/*, secret/<SecretName> or secret/*; a * can be the last character only", kms.Clip(resource))
		}
		return nil
	})
}

// parseAccessControl reads AccessControlRules and gives the network rules that it
// names; none means all addresses. encoding/json's own decoding would take the last
// of two members of one name, and null for a list.
func parseAccessControl(text string) ([]string, error) {
	const parameter = "AccessControlRules"
	d := json.NewDecoder(strings.NewReader(text))
	first, _ := d.Token()
	ok := json.Valid([]byte(text)) && first == json.Delim('{')
	rules := json.RawMessage("[]")
	for n := 0; ok && d.More(); n++ {
		name, _ := d.Token()
		ok = n == 0 && name == "NetworkRules" && d.Decode(&rules) == nil && bytes.HasPrefix(rules, []byte("["))
	}
	if !ok {
		return nil, kms.InvalidParameter(parameter, `it has to be JSON: {"NetworkRules":["<Name>"]}, or {"NetworkRules":[]} for all addresses`)
	}
	return parseNames(parameter, string(rules), 0, kms.MaxList, func(name string) error { return checkName(parameter, name) })
}

// accessControl writes AccessControlRules.
func accessControl(rules []string) string {
	return jsonText(struct{ NetworkRules []string }{append([]string{}, rules...)})
}

// rulesExist refuses network rules that there are not.
func rulesExist(records *store.Records, rules []string) error {
	for _, name := range rules {
		if _, err := networkRules.find(records, name); err != nil {
			return kms.InvalidParameter("AccessControlRules", "there is no network rule %q", name)
		}
	}
	return nil
}

func createPermissionPolicy(_ context.Context, c *call, req *kms.CreatePolicyRequest) (*kms.CreatePolicyResponse, error) {
	p, err := newPermissionPolicy(c, req)
	if err != nil {
		return nil, err
	}
	if err := permissionPolicies.create(c, p.Name, p, func(records *store.Records) error { return rulesExist(records, p.NetworkRules) }); err != nil {
		return nil, err
	}
	return &kms.CreatePolicyResponse{
		AccessControlRules: accessControl(p.NetworkRules),
		Arn:                c.namedARN(p.Name),
		Description:        p.Description,
		KmsInstance:        p.KmsInstance,
		Name:               p.Name,
		Permissions:        jsonText(p.Permissions),
		Resources:          jsonText(p.Resources),
	}, nil
}

// newPermissionPolicy makes a record of what CreatePolicy asks for, and refuses
// what is invalid by itself.
func newPermissionPolicy(c *call, req *kms.CreatePolicyRequest) (p store.PermissionPolicy, err error) {
	p = store.PermissionPolicy{Name: req.Name, Description: req.Description, KmsInstance: req.KmsInstance, CreationDate: c.now}
	if p.KmsInstance == "" {
		p.KmsInstance = c.server.instance.InstanceId
	}
	if p.KmsInstance != c.server.instance.InstanceId && p.KmsInstance != sharedInstance {
		return p, kms.InvalidParameter("KmsInstance", "%q is neither %s nor %s", kms.Clip(p.KmsInstance), c.server.instance.InstanceId, sharedInstance)
	}
	if p.Permissions, err = parsePermissions(req.Permissions); err != nil {
		return p, err
	}
	if p.Resources, err = parseResources(req.Resources); err != nil {
		return p, err
	}
	if req.AccessControlRules != "" {
		if p.NetworkRules, err = parseAccessControl(req.AccessControlRules); err != nil {
			return p, err
		}
	}
	return p, nil
}

func describePermissionPolicy(_ context.Context, c *call, req *kms.NameRequest) (*kms.DescribePolicyResponse, error) {
	p, err := permissionPolicies.describe(c, req.Name)
	if err != nil {
		return nil, err
	}
	return &kms.DescribePolicyResponse{
		AccessControlRules: accessControl(p.NetworkRules),
		Arn:                c.namedARN(p.Name),
		Description:        p.Description,
		KmsInstance:        p.KmsInstance,
		Name:               p.Name,
		Permissions:        p.Permissions,
		Resources:          p.Resources,
	}, nil
}

func listPermissionPolicies(_ context.Context, c *call, req *kms.ListNamedRequest) (*kms.ListPoliciesResponse, error) {
	all, page, err := permissionPolicies.list(c, req)
	if err != nil {
		return nil, err
	}
	resp := &kms.ListPoliciesResponse{PageInfo: page}
	resp.Policies.Policy = []kms.PermissionPolicyItem{} // an empty list is [], not null
	for _, p := range all {
		resp.Policies.Policy = append(resp.Policies.Policy, kms.PermissionPolicyItem{Name: p.Name})
	}
	return resp, nil
}

func updatePermissionPolicy(_ context.Context, c *call, req *kms.UpdatePolicyRequest) (*kms.EmptyResponse, error) {
	permissions, permissionsErr := ifSent(req.Permissions, parsePermissions)
	resources, resourcesErr := ifSent(req.Resources, parseResources)
	rules, rulesErr := ifSent(req.AccessControlRules, parseAccessControl)
	if err := errors.Join(permissionsErr, resourcesErr, rulesErr); err != nil {
		return nil, err
	}
	return done(permissionPolicies.update(c, req.Name, func(records *store.Records, p *store.PermissionPolicy) error {
		setIfSent(&p.Permissions, permissions)
		setIfSent(&p.Resources, resources)
		setIfSent(&p.Description, req.Description)
		setIfSent(&p.NetworkRules, rules)
		if rules == nil { // those of before may be gone
			return nil
		}
		return rulesExist(records, *rules)
	}))
}

func deletePermissionPolicy(_ context.Context, c *call, req *kms.NameRequest) (*kms.EmptyResponse, error) {
	return done(permissionPolicies.delete(c, req.Name))
}
