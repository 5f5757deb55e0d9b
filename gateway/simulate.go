package gateway

import (
	"context"
	"errors"
	"net/netip"
	"strings"

	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/store"
)

// simulatePolicy returns how the policies would decide a user's request, and which statement
// would decide it.
func simulatePolicy(_ context.Context, c *call, req *kms.SimulatePolicyRequest) (*kms.SimulatePolicyResponse, error) {
	o, err := simulatedOperation(req.ActionName)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(req.SourceIp); err != nil && req.SourceIp != "" {
		return nil, kms.InvalidParameter("SourceIp", "%q is not an IP address", kms.Clip(req.SourceIp))
	}
	p, err := simulatedPrincipal(c, req.UserName)
	if err != nil {
		return nil, err
	}
	resp := new(kms.SimulatePolicyResponse)
	key, err := simulatedKey(c, o, req, resp)
	if err != nil {
		return nil, err
	}
	if err := simulate(c, p, o.Name, req, key, resp); err != nil {
		return nil, err
	}
	return resp, c.confirm()
}

// simulatedPrincipal returns the principal of a user, or of the client keys of an access
// point.
func simulatedPrincipal(c *call, userName string) (*identity.Principal, error) {
	aapName, ok := strings.CutPrefix(userName, identity.AccessPointUser)
	if !ok {
		user, err := findUser(c, c.records, userName)
		if err != nil {
			return nil, err
		}
		return c.server.callers.User(c.records, user)
	}
	c.entry.Subject = kms.Clip(userName)
	if _, err := accessPoints.find(c.records, aapName); err != nil {
		return nil, err
	}
	return c.server.callers.AccessPoint(c.records, aapName)
}

// simulate decides as the operation would. For a change of an alias it decides on the alias
// first, and if that is allowed, on the key.
func simulate(
	c *call, p *identity.Principal, action string,
	req *kms.SimulatePolicyRequest, key *store.Key, resp *kms.SimulatePolicyResponse,
) error {
	if action == "DescribeRegions" {
		resp.Allowed, resp.Reason = true, "it requires only authentication"
		return nil
	}
	changesAlias := action == "CreateAlias" || action == "UpdateAlias" || action == "DeleteAlias"
	if changesAlias && strings.HasPrefix(req.KeyId, kms.AliasPrefix) {
		keyARN := resp.Resource
		resp.Resource = c.server.arns.Alias(req.KeyId)
		if err := simulateResource(c, p, action, req, nil, resp); err != nil || !resp.Allowed {
			return err
		}
		resp.Resource = keyARN
	}
	return simulateResource(c, p, action, req, key, resp)
}

// simulateResource fills in resp with the decision on resp.Resource.
func simulateResource(
	c *call, p *identity.Principal, action string,
	req *kms.SimulatePolicyRequest, key *store.Key, resp *kms.SimulatePolicyResponse,
) error {
	d, err := c.server.callers.Decide(c.records, p,
		identity.Question{Action: action, Resource: resp.Resource, Values: simulatedValues{requestValues{c}, req.SourceIp}}, key)
	resp.Allowed, resp.Reason, resp.PolicyName, resp.Statement = d.Allowed, d.Reason(), d.Policy, d.Statement
	if errors.Is(err, kms.ErrNoPermission) {
		resp.Reason, err = err.Error(), nil
	}
	return err
}

// simulatedValues are the values of the condition keys for a request over the network.
type simulatedValues struct {
	requestValues
	address string // of the request; empty for none
}

// Value implements policy.Values.
func (v simulatedValues) Value(key string) (value string, ok bool) {
	switch key {
	case "acs:SecureTransport":
		return "true", true
	case "acs:SourceIp":
		return v.address, v.address != ""
	}
	return v.requestValues.Value(key)
}

// simulatedOperation returns the operation to simulate, by its name in either API.
func simulatedOperation(name string) (kms.Operation, error) {
	action := strings.TrimPrefix(name, "kms:")
	o, ok := kms.FindNative(action)
	if !ok {
		o, ok = kms.Find(action)
	}
	if !ok || !o.Door.IsRemote() {
		return o, kms.InvalidParameter("ActionName", "%q is not an operation that is available over the network",
			kms.Clip(action))
	}
	return o, nil
}

// simulatedKey returns the key to simulate, or nil if the operation is not about a key or
// the key does not exist. It fills in resp.Resource.
func simulatedKey(
	c *call, o kms.Operation, req *kms.SimulatePolicyRequest, resp *kms.SimulatePolicyResponse,
) (*store.Key, error) {
	switch kind, ok := o.ResourceKind(); {
	case o.Resource == "":
		return nil, nil
	case !ok:
		resp.Resource = c.server.arns.Resource(o.Resource)
		return nil, nil
	case kind == "keystore":
		resp.Resource = c.server.arns.Instance(c.server.instance.InstanceId)
		return nil, nil
	case kind != "key":
		return nil, simulatedName(c, o, req.Name, resp)
	}
	if req.KeyId == "" {
		return nil, kms.MissingParameter("KeyId")
	}
	keyId, key, err := c.anyKey(req.KeyId)
	if err != nil {
		return nil, err
	}
	c.entry.KeyId, resp.Resource = kms.Clip(keyId), c.server.arns.Key(keyId)
	return key, nil
}

// simulatedName fills in resp.Resource for an action on a named record.
func simulatedName(c *call, o kms.Operation, name string, resp *kms.SimulatePolicyResponse) error {
	switch {
	case name == "" && o.Name == "ListClientKeys": // it lists those of all access points
		name = anyName
	case name == "":
		return kms.MissingParameter("Name")
	default:
		if err := checkName("Name", name); err != nil {
			return err
		}
	}
	resp.Resource = c.server.namedARN(o, name)
	return nil
}
