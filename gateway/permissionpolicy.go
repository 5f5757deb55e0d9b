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

// sharedInstance is the other valid KmsInstance of a permission policy. It permits the same
// as this instance's id.
const sharedInstance = "shared"

var permissionPolicies = collection[store.PermissionPolicy]{
	"permission policy", (*store.Records).PermissionPolicies, (*store.Tx).PermissionPolicies,
}

func parsePermissions(text string) ([]string, error) {
	return parseNames("Permissions", text, 1, 2, func(permission string) error {
		if permission != identity.KeyUser && permission != identity.SecretUser {
			return kms.InvalidParameter("Permissions", "%q is neither %q nor %q",
				kms.Clip(permission), identity.KeyUser, identity.SecretUser)
		}
		return nil
	})
}

func parseResources(text string) ([]string, error) {
	return parseNames("Resources", text, 1, kms.MaxList, func(resource string) error {
		if !identity.IsPermissionResource(resource) {
			return kms.InvalidParameter("Resources", "%q is not key/<KeyId> (no alias), key/*, secret/<SecretName> "+
				"or secret/*; a * can only be the last character", kms.Clip(resource))
		}
		return nil
	})
}

// parseAccessControl parses AccessControlRules and returns the network rules that it names.
// No rules means all addresses. json.Unmarshal is too lenient here: of two members with the
// same name it takes the last, and it accepts null for a list.
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
		return nil, kms.InvalidParameter(parameter,
			`it must be JSON: {"NetworkRules":["<Name>"]}, or {"NetworkRules":[]} for all addresses`)
	}
	return parseNames(parameter, string(rules), 0, kms.MaxList,
		func(name string) error { return checkName(parameter, name) })
}

// accessControl returns AccessControlRules with the names of network rules.
func accessControl(rules []string) string {
	return jsonText(struct{ NetworkRules []string }{append([]string{}, rules...)})
}

// checkNetworkRules refuses names of network rules that do not exist.
func checkNetworkRules(records *store.Records, rules []string) error {
	for _, name := range rules {
		if _, err := networkRules.find(records, name); err != nil {
			return kms.InvalidParameter("AccessControlRules", "there is no network rule %q", name)
		}
	}
	return nil
}

func createPermissionPolicy(
	_ context.Context, c *call, req *kms.CreatePolicyRequest,
) (*kms.CreatePolicyResponse, error) {
	p, err := newPermissionPolicy(c, req)
	if err != nil {
		return nil, err
	}
	err = permissionPolicies.create(c, p.Name, p,
		func(records *store.Records) error { return checkNetworkRules(records, p.NetworkRules) })
	if err != nil {
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

// newPermissionPolicy returns the record of the permission policy that CreatePolicy asks
// for. It refuses parameters that are invalid by themselves.
func newPermissionPolicy(c *call, req *kms.CreatePolicyRequest) (p store.PermissionPolicy, err error) {
	p = store.PermissionPolicy{Name: req.Name, Description: req.Description, KmsInstance: req.KmsInstance,
		CreationDate: c.now}
	if p.KmsInstance == "" {
		p.KmsInstance = c.server.instance.InstanceId
	}
	if p.KmsInstance != c.server.instance.InstanceId && p.KmsInstance != sharedInstance {
		return p, kms.InvalidParameter("KmsInstance", "%q is neither %q nor %q",
			kms.Clip(p.KmsInstance), c.server.instance.InstanceId, sharedInstance)
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
	permissions, permissionsErr := parseOptional(req.Permissions, parsePermissions)
	resources, resourcesErr := parseOptional(req.Resources, parseResources)
	rules, rulesErr := parseOptional(req.AccessControlRules, parseAccessControl)
	if err := errors.Join(permissionsErr, resourcesErr, rulesErr); err != nil {
		return nil, err
	}
	change := func(records *store.Records, p *store.PermissionPolicy) error {
		setOptional(&p.Permissions, permissions)
		setOptional(&p.Resources, resources)
		setOptional(&p.Description, req.Description)
		setOptional(&p.NetworkRules, rules)
		if rules == nil { // the list is unchanged; its rules may have been deleted
			return nil
		}
		return checkNetworkRules(records, *rules)
	}
	return emptyResponse(permissionPolicies.update(c, req.Name, change))
}

func deletePermissionPolicy(_ context.Context, c *call, req *kms.NameRequest) (*kms.EmptyResponse, error) {
	return emptyResponse(permissionPolicies.delete(c, req.Name))
}
