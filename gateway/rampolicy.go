package gateway

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/kmsgate/kmsgate/policy"
	"github.com/kmsgate/kmsgate/store"
)

// The types of policies, spelled as RAM spells them.
const (
	systemType = "System"
	customType = "Custom"
)

// policyDocument gives a system policy's document or a record's, or
// store.ErrNotFound.
func policyDocument(records *store.Records, policyName string) (string, error) {
	if p, ok := systemPolicies[policyName]; ok {
		return p.document, nil
	}
	p, err := records.RamPolicies().Get(policyName)
	return p.PolicyDocument, err
}

func checkDocument(document string) error {
	if _, err := policy.Parse(document); err != nil {
		return invalidParameter("PolicyDocument", "%s", err)
	}
	return nil
}

// ownPolicy gives a policy that can be changed.
func (c *call) ownPolicy(records *store.Records, policyName string) (store.RamPolicy, error) {
	if _, ok := systemPolicies[policyName]; ok {
		return store.RamPolicy{}, invalidParameter("PolicyName", "%s is a system policy, which cannot be changed", policyName)
	}
	p, err := records.RamPolicies().Get(policyName)
	if errors.Is(err, store.ErrNotFound) {
		return store.RamPolicy{}, errPolicyNotFound
	}
	return p, err
}

type createRamPolicyRequest struct {
	PolicyName     string `kms:"required"`
	PolicyDocument string `kms:"required"`
	Description    string
}

func createRamPolicy(_ context.Context, c *call, req *createRamPolicyRequest) (*emptyResponse, error) {
	c.entry.Subject = clip(req.PolicyName)
	err := errors.Join(checkName("PolicyName", req.PolicyName), checkText("Description", req.Description), checkDocument(req.PolicyDocument))
	if err != nil {
		return nil, err
	}
	p := store.RamPolicy{PolicyName: req.PolicyName, Description: req.Description, PolicyDocument: req.PolicyDocument, CreationDate: c.now, UpdateDate: c.now}
	return done(c.update(func(tx *store.Tx) error {
		if _, err := policyDocument(tx.Records, req.PolicyName); err == nil {
			return errPolicyExists
		}
		return tx.RamPolicies().Put(p)
	}))
}

type updateRamPolicyRequest struct {
	PolicyName     string `kms:"required"`
	PolicyDocument string `kms:"required"`
}

func updateRamPolicy(_ context.Context, c *call, req *updateRamPolicyRequest) (*emptyResponse, error) {
	if err := checkDocument(req.PolicyDocument); err != nil {
		return nil, err
	}
	c.entry.Subject = clip(req.PolicyName)
	return done(c.update(func(tx *store.Tx) error {
		p, err := c.ownPolicy(tx.Records, req.PolicyName)
		if err != nil {
			return err
		}
		p.PolicyDocument, p.UpdateDate = req.PolicyDocument, c.now
		return tx.RamPolicies().Put(p)
	}))
}

type policyRequest struct {
	PolicyName string `kms:"required"`
}

// deleteRamPolicy deletes a policy that no user has.
func deleteRamPolicy(_ context.Context, c *call, req *policyRequest) (*emptyResponse, error) {
	c.entry.Subject = clip(req.PolicyName)
	return done(c.update(func(tx *store.Tx) error {
		if _, err := c.ownPolicy(tx.Records, req.PolicyName); err != nil {
			return err
		}
		if n := attachments(tx.Records)[req.PolicyName]; n > 0 {
			return errPolicyInUse.because("There are %d of them.", n)
		}
		return tx.RamPolicies().Delete(req.PolicyName)
	}))
}

// attachments counts the users that have each policy.
func attachments(records *store.Records) map[string]int {
	attached := make(map[string]int)
	for u := range records.Users().All() {
		for _, name := range u.Policies {
			attached[name]++
		}
	}
	return attached
}

type policyItem struct {
	PolicyName      string
	PolicyType      string
	Description     string
	AttachmentCount int
	CreateDate      string
	UpdateDate      string
}

func newPolicyItem(p store.RamPolicy, attached int) policyItem {
	return policyItem{p.PolicyName, customType, p.Description, attached, apiTime(p.CreationDate), apiTime(p.UpdateDate)}
}

type getRamPolicyResponse struct {
	result
	Policy struct {
		policyItem
		PolicyDocument string
	}
}

func getRamPolicy(_ context.Context, c *call, req *policyRequest) (*getRamPolicyResponse, error) {
	c.entry.Subject = clip(req.PolicyName)
	attached := attachments(c.records)[req.PolicyName]
	resp := new(getRamPolicyResponse)
	if p, ok := systemPolicies[req.PolicyName]; ok {
		resp.Policy.policyItem = policyItem{PolicyName: req.PolicyName, PolicyType: systemType, Description: p.description, AttachmentCount: attached}
		resp.Policy.PolicyDocument = p.document
		return resp, c.confirm()
	}
	p, err := c.ownPolicy(c.records, req.PolicyName)
	if err != nil {
		return nil, err
	}
	resp.Policy.policyItem, resp.Policy.PolicyDocument = newPolicyItem(p, attached), p.PolicyDocument
	return resp, c.confirm()
}

type listRamPoliciesResponse struct {
	result
	Policies struct{ Policy []policyItem }
}

func listRamPolicies(_ context.Context, c *call, _ *noRequest) (*listRamPoliciesResponse, error) {
	if err := c.confirm(); err != nil {
		return nil, err
	}
	attached := attachments(c.records)
	resp := new(listRamPoliciesResponse)
	for _, name := range slices.Sorted(maps.Keys(systemPolicies)) {
		resp.Policies.Policy = append(resp.Policies.Policy, policyItem{PolicyName: name, PolicyType: systemType, Description: systemPolicies[name].description, AttachmentCount: attached[name]})
	}
	for p := range c.records.RamPolicies().All() {
		resp.Policies.Policy = append(resp.Policies.Policy, newPolicyItem(p, attached[p.PolicyName]))
	}
	return resp, nil
}

type attachmentRequest struct {
	PolicyName string `kms:"required"`
	UserName   string `kms:"required"`
}

func attachPolicyToUser(_ context.Context, c *call, req *attachmentRequest) (*emptyResponse, error) {
	return done(c.updateUser(req.UserName, func(records *store.Records, u *store.User) error {
		c.entry.Subject = clip(req.UserName + "/" + req.PolicyName)
		if _, err := policyDocument(records, req.PolicyName); errors.Is(err, store.ErrNotFound) {
			return errPolicyNotFound
		} else if err != nil {
			return err
		}
		if slices.Contains(u.Policies, req.PolicyName) {
			return errPolicyAttached
		}
		u.Policies = append(u.Policies, req.PolicyName)
		return nil
	}))
}

func detachPolicyFromUser(_ context.Context, c *call, req *attachmentRequest) (*emptyResponse, error) {
	return done(c.updateUser(req.UserName, func(_ *store.Records, u *store.User) error {
		c.entry.Subject = clip(req.UserName + "/" + req.PolicyName)
		i := slices.Index(u.Policies, req.PolicyName)
		if i < 0 {
			return errPolicyNotAttached
		}
		u.Policies = slices.Delete(u.Policies, i, i+1)
		return nil
	}))
}
