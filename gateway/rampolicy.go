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
func policyDocument(tx *store.Tx, policyName string) (string, error) {
	if p, ok := systemPolicies[policyName]; ok {
		return p.document, nil
	}
	p, err := tx.Policy(policyName)
	return p.PolicyDocument, err
}

func checkDocument(document string) error {
	if _, err := policy.Parse(document); err != nil {
		return invalidParameter("PolicyDocument", "%s", err)
	}
	return nil
}

// ownPolicy gives a policy that can be changed.
func (c *call) ownPolicy(tx *store.Tx, policyName string) (store.Policy, error) {
	if _, ok := systemPolicies[policyName]; ok {
		return store.Policy{}, invalidParameter("PolicyName", "%s is a system policy, which cannot be changed", policyName)
	}
	p, err := tx.Policy(policyName)
	if errors.Is(err, store.ErrNotFound) {
		return store.Policy{}, errPolicyNotFound
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
	isNew := func(tx *store.Tx) error {
		if _, err := policyDocument(tx, req.PolicyName); err == nil {
			return errPolicyExists
		}
		return nil
	}
	if err := c.server.Store.View(isNew); err != nil {
		return nil, err
	}
	if err := c.commit(); err != nil {
		return nil, err
	}
	return done(c.change(func(tx *store.Tx) error {
		if err := isNew(tx); err != nil {
			return err
		}
		return tx.PutPolicy(store.Policy{PolicyName: req.PolicyName, Description: req.Description, PolicyDocument: req.PolicyDocument, CreationDate: c.now, UpdateDate: c.now})
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
	return done(c.changePolicy(req.PolicyName, func(tx *store.Tx, p store.Policy) error {
		p.PolicyDocument, p.UpdateDate = req.PolicyDocument, c.now
		return tx.PutPolicy(p)
	}))
}

type policyRequest struct {
	PolicyName string `kms:"required"`
}

// deleteRamPolicy deletes a policy that no user has.
func deleteRamPolicy(_ context.Context, c *call, req *policyRequest) (*emptyResponse, error) {
	unused := func(tx *store.Tx) error {
		if _, err := c.ownPolicy(tx, req.PolicyName); err != nil {
			return err
		}
		if n := attachments(tx)[req.PolicyName]; n > 0 {
			return errPolicyInUse.because("There are %d of them.", n)
		}
		return nil
	}
	c.entry.Subject = clip(req.PolicyName)
	if err := c.server.Store.View(unused); err != nil {
		return nil, err
	}
	return done(c.changePolicy(req.PolicyName, func(tx *store.Tx, p store.Policy) error {
		if err := unused(tx); err != nil {
			return err
		}
		return tx.DeletePolicy(p.PolicyName)
	}))
}

func (c *call) changePolicy(policyName string, change func(tx *store.Tx, p store.Policy) error) error {
	c.entry.Subject = clip(policyName)
	err := c.server.Store.View(func(tx *store.Tx) error {
		_, err := c.ownPolicy(tx, policyName)
		return err
	})
	if err != nil {
		return err
	}
	if err := c.commit(); err != nil {
		return err
	}
	return c.change(func(tx *store.Tx) error {
		p, err := c.ownPolicy(tx, policyName)
		if err != nil {
			return err
		}
		return change(tx, p)
	})
}

// attachments counts the users that have each policy.
func attachments(tx *store.Tx) map[string]int {
	of := make(map[string]int)
	for _, u := range tx.Users() {
		for _, name := range u.Policies {
			of[name]++
		}
	}
	return of
}

type policyItem struct {
	PolicyName      string
	PolicyType      string
	Description     string
	AttachmentCount int
	CreateDate      string
	UpdateDate      string
}

func newPolicyItem(p store.Policy, attached int) policyItem {
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
	resp := new(getRamPolicyResponse)
	err := c.server.Store.View(func(tx *store.Tx) error {
		attached := attachments(tx)[req.PolicyName]
		if p, ok := systemPolicies[req.PolicyName]; ok {
			resp.Policy.policyItem = policyItem{PolicyName: req.PolicyName, PolicyType: systemType, Description: p.description, AttachmentCount: attached}
			resp.Policy.PolicyDocument = p.document
			return nil
		}
		p, err := c.ownPolicy(tx, req.PolicyName)
		resp.Policy.policyItem, resp.Policy.PolicyDocument = newPolicyItem(p, attached), p.PolicyDocument
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, c.commit()
}

type listRamPoliciesResponse struct {
	result
	Policies struct{ Policy []policyItem }
}

func listRamPolicies(_ context.Context, c *call, _ *noRequest) (*listRamPoliciesResponse, error) {
	if err := c.commit(); err != nil {
		return nil, err
	}
	resp := new(listRamPoliciesResponse)
	return resp, c.server.Store.View(func(tx *store.Tx) error {
		attached := attachments(tx)
		for _, name := range slices.Sorted(maps.Keys(systemPolicies)) {
			resp.Policies.Policy = append(resp.Policies.Policy, policyItem{PolicyName: name, PolicyType: systemType, Description: systemPolicies[name].description, AttachmentCount: attached[name]})
		}
		for _, p := range tx.Policies() {
			resp.Policies.Policy = append(resp.Policies.Policy, newPolicyItem(p, attached[p.PolicyName]))
		}
		return nil
	})
}

type attachmentRequest struct {
	PolicyName string `kms:"required"`
	UserName   string `kms:"required"`
}

func attachPolicyToUser(_ context.Context, c *call, req *attachmentRequest) (*emptyResponse, error) {
	return done(c.changeUser(req.UserName, func(tx *store.Tx, u *store.User) error {
		c.entry.Subject = clip(req.UserName + "/" + req.PolicyName)
		if _, err := policyDocument(tx, req.PolicyName); errors.Is(err, store.ErrNotFound) {
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
	return done(c.changeUser(req.UserName, func(_ *store.Tx, u *store.User) error {
		c.entry.Subject = clip(req.UserName + "/" + req.PolicyName)
		i := slices.Index(u.Policies, req.PolicyName)
		if i < 0 {
			return errPolicyNotAttached
		}
		u.Policies = slices.Delete(u.Policies, i, i+1)
		return nil
	}))
}
