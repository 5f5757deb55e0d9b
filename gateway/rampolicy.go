package gateway

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/policy"
	"github.com/kmsgate/kmsgate/store"
)

// The types of RAM policies, spelled as RAM spells them.
const (
	systemType = "System"
	customType = "Custom"
)

func checkDocument(document string) error {
	if _, err := policy.Parse(document); err != nil {
		return kms.InvalidParameter("PolicyDocument", "%s", err)
	}
	return nil
}

// customPolicy returns a RAM policy that can be changed. It refuses system policies.
func customPolicy(c *call, records *store.Records, policyName string) (store.RamPolicy, error) {
	if _, ok := identity.SystemPolicies[policyName]; ok {
		return store.RamPolicy{}, kms.InvalidParameter("PolicyName", "%q is a system policy, which cannot be changed",
			policyName)
	}
	p, err := records.RamPolicies().Get(policyName)
	if errors.Is(err, store.ErrNotFound) {
		return store.RamPolicy{}, kms.ErrPolicyNotFound
	}
	return p, err
}

func createRamPolicy(_ context.Context, c *call, req *kms.CreateRamPolicyRequest) (*kms.EmptyResponse, error) {
	c.entry.Subject = kms.Clip(req.PolicyName)
	err := errors.Join(checkName("PolicyName", req.PolicyName), checkDocument(req.PolicyDocument))
	if err != nil {
		return nil, err
	}
	p := store.RamPolicy{PolicyName: req.PolicyName, Description: req.Description, PolicyDocument: req.PolicyDocument,
		CreationDate: c.now, UpdateDate: c.now}
	return emptyResponse(c.update(func(tx *store.Tx) error {
		if _, err := identity.PolicyDocument(tx.Records, req.PolicyName); err == nil {
			return kms.ErrPolicyExists
		}
		return tx.RamPolicies().Put(p)
	}))
}

func updateRamPolicy(_ context.Context, c *call, req *kms.UpdateRamPolicyRequest) (*kms.EmptyResponse, error) {
	if err := checkDocument(req.PolicyDocument); err != nil {
		return nil, err
	}
	c.entry.Subject = kms.Clip(req.PolicyName)
	return emptyResponse(c.update(func(tx *store.Tx) error {
		p, err := customPolicy(c, tx.Records, req.PolicyName)
		if err != nil {
			return err
		}
		p.PolicyDocument, p.UpdateDate = req.PolicyDocument, c.now
		return tx.RamPolicies().Put(p)
	}))
}

// deleteRamPolicy deletes a RAM policy that is attached to no user.
func deleteRamPolicy(_ context.Context, c *call, req *kms.RamPolicyRequest) (*kms.EmptyResponse, error) {
	c.entry.Subject = kms.Clip(req.PolicyName)
	return emptyResponse(c.update(func(tx *store.Tx) error {
		if _, err := customPolicy(c, tx.Records, req.PolicyName); err != nil {
			return err
		}
		if n := attachments(tx.Records)[req.PolicyName]; n > 0 {
			return kms.ErrPolicyInUse.Because("Users: %d.", n)
		}
		return tx.RamPolicies().Delete(req.PolicyName)
	}))
}

// attachments returns to how many users each RAM policy is attached, by its name.
func attachments(records *store.Records) map[string]int {
	attached := make(map[string]int)
	for u := range records.Users().All() {
		for _, name := range u.Policies {
			attached[name]++
		}
	}
	return attached
}

func newPolicyItem(p store.RamPolicy, attached int) kms.RamPolicyItem {
	return kms.RamPolicyItem{PolicyName: p.PolicyName, PolicyType: customType, Description: p.Description,
		AttachmentCount: attached, CreateDate: kms.FormatTime(p.CreationDate), UpdateDate: kms.FormatTime(p.UpdateDate)}
}

func getRamPolicy(_ context.Context, c *call, req *kms.RamPolicyRequest) (*kms.GetRamPolicyResponse, error) {
	c.entry.Subject = kms.Clip(req.PolicyName)
	attached := attachments(c.records)[req.PolicyName]
	resp := new(kms.GetRamPolicyResponse)
	if p, ok := identity.SystemPolicies[req.PolicyName]; ok {
		resp.Policy.RamPolicyItem = kms.RamPolicyItem{PolicyName: req.PolicyName, PolicyType: systemType,
			Description: p.Description, AttachmentCount: attached}
		resp.Policy.PolicyDocument = p.Document
		return resp, c.confirm()
	}
	p, err := customPolicy(c, c.records, req.PolicyName)
	if err != nil {
		return nil, err
	}
	resp.Policy.RamPolicyItem, resp.Policy.PolicyDocument = newPolicyItem(p, attached), p.PolicyDocument
	return resp, c.confirm()
}

func listRamPolicies(_ context.Context, c *call, _ *kms.NoRequest) (*kms.ListRamPoliciesResponse, error) {
	if err := c.confirm(); err != nil {
		return nil, err
	}
	attached := attachments(c.records)
	resp := new(kms.ListRamPoliciesResponse)
	for _, name := range slices.Sorted(maps.Keys(identity.SystemPolicies)) {
		resp.Policies.Policy = append(resp.Policies.Policy, kms.RamPolicyItem{PolicyName: name, PolicyType: systemType,
			Description: identity.SystemPolicies[name].Description, AttachmentCount: attached[name]})
	}
	for p := range c.records.RamPolicies().All() {
		resp.Policies.Policy = append(resp.Policies.Policy, newPolicyItem(p, attached[p.PolicyName]))
	}
	return resp, nil
}

func attachPolicyToUser(_ context.Context, c *call, req *kms.PolicyAttachmentRequest) (*kms.EmptyResponse, error) {
	return emptyResponse(updateUser(c, req.UserName, func(records *store.Records, u *store.User) error {
		c.entry.Subject = kms.Clip(req.UserName + "/" + req.PolicyName)
		if _, err := identity.PolicyDocument(records, req.PolicyName); errors.Is(err, store.ErrNotFound) {
			return kms.ErrPolicyNotFound
		} else if err != nil {
			return err
		}
		if slices.Contains(u.Policies, req.PolicyName) {
			return kms.ErrPolicyAttached
		}
		u.Policies = append(u.Policies, req.PolicyName)
		return nil
	}))
}

func detachPolicyFromUser(_ context.Context, c *call, req *kms.PolicyAttachmentRequest) (*kms.EmptyResponse, error) {
	return emptyResponse(updateUser(c, req.UserName, func(_ *store.Records, u *store.User) error {
		c.entry.Subject = kms.Clip(req.UserName + "/" + req.PolicyName)
		i := slices.Index(u.Policies, req.PolicyName)
		if i < 0 {
			return kms.ErrPolicyNotAttached
		}
		u.Policies = slices.Delete(u.Policies, i, i+1)
		return nil
	}))
}
