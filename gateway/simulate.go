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

// simulatePolicy says what a user's request would be decided like, and by which
// statement.
func simulatePolicy(_ context.Context, c *call, req *kms.SimulatePolicyRequest) (*kms.SimulatePolicyResponse, error) {
	o, err := simulatedOperation(req.ActionName)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(req.SourceIp); err != nil && req.SourceIp != "" {
		return nil, kms.InvalidParameter("SourceIp", "%q is no address", kms.Clip(req.SourceIp))
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

// simulatedPrincipal gives the user who is asked about, or the access point, whose
// client keys are.
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

// simulate decides as the operation would: for an alias that is changed, on the
// alias first, and if that is allowed on the key.
func simulate(c *call, p *identity.Principal, action string, req *kms.SimulatePolicyRequest, key *store.Key, resp *kms.SimulatePolicyResponse) error {
	if action == "DescribeRegions" {
		resp.Allowed, resp.Reason = true, "it takes authentication only"
		return nil
	}
	changed := action == "CreateAlias" || action == "UpdateAlias" || action == "DeleteAlias"
	if changed && strings.HasPrefix(req.KeyId, aliasPrefix) {
		onKey := resp.Resource
		resp.Resource = c.server.arns.Alias(req.KeyId)
		if err := simulateOn(c, p, action, req, nil, resp); err != nil || !resp.Allowed {
			return err
		}
		resp.Resource = onKey
	}
	return simulateOn(c, p, action, req, key, resp)
}

func simulateOn(c *call, p *identity.Principal, action string, req *kms.SimulatePolicyRequest, key *store.Key, resp *kms.SimulatePolicyResponse) error {
	values := c.conditions()
	values["acs:SecureTransport"] = "true"
	if req.SourceIp != "" {
		values["acs:SourceIp"] = req.SourceIp
	}
	d, err := c.server.callers.Decide(c.records, p, identity.Question{Action: action, Resource: resp.Resource, Key: key, Values: values})
	resp.Allowed, resp.Reason, resp.PolicyName, resp.Statement = d.Allowed, d.Reason, d.Policy, d.Statement
	if errors.Is(err, kms.ErrNoPermission) {
		resp.Reason, err = err.Error(), nil
	}
	return err
}

// simulatedOperation returns the operation that is asked about, by either API's name.
func simulatedOperation(name string) (kms.Operation, error) {
	action := strings.TrimPrefix(name, "kms:")
	o, ok := kms.FindNative(action)
	if !ok {
		o, ok = kms.Find(action)
	}
	if !ok || !o.Door.IsRemote() {
		return o, kms.InvalidParameter("ActionName", "%q is not an operation that can be asked for over the network", kms.Clip(action))
	}
	return o, nil
}

// simulatedKey finds the key that is asked about, if there is one, and fills in
// the resource.
func simulatedKey(c *call, o kms.Operation, req *kms.SimulatePolicyRequest, resp *kms.SimulatePolicyResponse) (*store.Key, error) {
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

// simulatedName fills in the resource of an action on something that has a name.
func simulatedName(c *call, o kms.Operation, name string, resp *kms.SimulatePolicyResponse) error {
	switch {
	case name == "" && o.Name == "ListClientKeys": // of all access points
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
