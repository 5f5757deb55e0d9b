package gateway

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/kmsgate/kmsgate/policy"
	"github.com/kmsgate/kmsgate/store"
)

// The types of policies, spelled as RAM spells them.
const (
	systemType = "System"
	customType = "Custom"
)

// policyDocument gives a system policy's document or a record's, or
// EntityNotExist.Policy.
func policyDocument(tx *store.Tx, policyName string) (string, error) {
	if p, ok := systemPolicies[policyName]; ok {
		return p.document, nil
	}
	p, err := tx.Policy(policyName)
	if errors.Is(err, store.ErrNotFound) {
		return "", errPolicyNotFound
	}
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
		if _, err := policyDocument(tx, req.PolicyName); err != nil {
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

type simulatePolicyRequest struct {
	UserName   string `kms:"required"`
	ActionName string `kms:"required"` // with or without "kms:"
	KeyId      string // a KeyId, an alias or an ARN; not needed for actions of no one key
	SourceIp   string
}

type simulatePolicyResponse struct {
	result
	Allowed    bool
	Reason     string
	PolicyName string
	Statement  int
	Resource   string
}

// simulatePolicy says what a user's request would be decided like, and by which
// statement.
func simulatePolicy(_ context.Context, c *call, req *simulatePolicyRequest) (*simulatePolicyResponse, error) {
	action, err := c.simulatedAction(req.ActionName)
	if err != nil {
		return nil, err
	}
	resp := new(simulatePolicyResponse)
	err = c.server.Store.View(func(tx *store.Tx) error {
		user, err := c.user(tx, req.UserName)
		if err != nil {
			return err
		}
		p, err := c.server.principalOf(tx, user)
		if err != nil {
			return err
		}
		key, err := c.simulatedKey(tx, action, req.KeyId, resp)
		if err != nil {
			return err
		}
		return c.simulate(p, action, req, key, resp)
	})
	if err != nil {
		return nil, err
	}
	return resp, c.commit()
}

// simulate decides as the operation would: for an alias that is changed, on the
// alias first, and if that is allowed on the key.
func (c *call) simulate(p *principal, action string, req *simulatePolicyRequest, key *store.Key, resp *simulatePolicyResponse) error {
	if action == "DescribeRegions" {
		resp.Allowed, resp.Reason = true, "it takes authentication only"
		return nil
	}
	changed := action == "CreateAlias" || action == "UpdateAlias" || action == "DeleteAlias"
	if changed && strings.HasPrefix(req.KeyId, aliasPrefix) {
		onKey := resp.Resource
		resp.Resource = c.server.aliasARN(req.KeyId)
		if err := c.simulateOn(p, action, req, nil, resp); err != nil || !resp.Allowed {
			return err
		}
		resp.Resource = onKey
	}
	return c.simulateOn(p, action, req, key, resp)
}

func (c *call) simulateOn(p *principal, action string, req *simulatePolicyRequest, key *store.Key, resp *simulatePolicyResponse) error {
	values := c.conditions()
	values["acs:SecureTransport"] = "true"
	if req.SourceIp != "" {
		values["acs:SourceIp"] = req.SourceIp
	}
	d, err := c.server.decide(p, action, resp.Resource, key, values)
	resp.Allowed, resp.Reason, resp.PolicyName, resp.Statement = d.Allowed, d.Reason, d.Policy, d.Statement
	if errors.Is(err, errNoPermission) {
		resp.Reason, err = err.Error(), nil
	}
	return err
}

func (c *call) simulatedAction(name string) (string, error) {
	const prefix = "kms:"
	if len(name) > len(prefix) && name[:len(prefix)] == prefix {
		name = name[len(prefix):]
	}
	if o, ok := c.server.table[name]; !ok || o.door != rpcDoor {
		return "", invalidParameter("ActionName", "%q is not an operation that users can ask for", clip(name))
	}
	return name, nil
}

// simulatedKey finds the key that is asked about, if there is one, and fills in
// the resource.
func (c *call) simulatedKey(tx *store.Tx, action, name string, resp *simulatePolicyResponse) (*store.Key, error) {
	if kind, ok := keyless[action]; ok {
		resp.Resource = c.server.arn(kind)
		return nil, nil
	}
	switch action {
	case "GetKmsInstance":
		resp.Resource = c.server.instanceARN(c.server.instance.InstanceId)
		return nil, nil
	case "DescribeRegions":
		return nil, nil
	}
	if name == "" {
		return nil, missingParameter("KeyId")
	}
	keyId, err := c.keyId(name)
	if err != nil {
		return nil, err
	}
	c.entry.KeyId, resp.Resource = clip(keyId), c.server.keyARN(keyId)
	key, err := tx.Key(keyId)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return &key, err
}

type quotaItem struct {
	Gateway          string
	QuotaName        string
	UserName         string // empty: everybody
	QueriesPerSecond float64
}

type listQuotasResponse struct {
	result
	Quotas struct{ Quota []quotaItem }
}

// listQuotas lists what holds for everybody, and then what users have instead. A
// limit of 0 is none.
func listQuotas(_ context.Context, c *call, _ *noRequest) (*listQuotasResponse, error) {
	if err := c.commit(); err != nil {
		return nil, err
	}
	resp := new(listQuotasResponse)
	add := func(name quota, userName string, perSecond float64) {
		kind := SharedGateway
		if name == dedicatedUser || name == dedicatedInstance {
			kind = DedicatedGateway
		}
		resp.Quotas.Quota = append(resp.Quotas.Quota, quotaItem{kind, string(name), userName, perSecond})
	}
	for _, name := range append(slices.Sorted(maps.Keys(documentedQuotas)), dedicatedUser, dedicatedInstance) {
		add(name, "", c.server.Quotas.perSecond(name, store.User{}))
	}
	return resp, c.server.Store.View(func(tx *store.Tx) error {
		for _, u := range tx.Users() {
			for _, name := range slices.Sorted(maps.Keys(u.Quotas)) {
				add(quota(name), u.UserName, u.Quotas[name])
			}
		}
		return nil
	})
}

type setUserQuotaRequest struct {
	UserName         string `kms:"required"`
	QuotaName        string `kms:"required"`
	QueriesPerSecond *int   // what everybody has if it is not sent
}

// maxQueriesPerSecond is more than any machine does.
const maxQueriesPerSecond = 1_000_000

func setUserQuota(_ context.Context, c *call, req *setUserQuotaRequest) (*emptyResponse, error) {
	if !isUserQuota(quota(req.QuotaName)) {
		return nil, invalidParameter("QuotaName", "%q is none that users have: see ListQuotas", clip(req.QuotaName))
	}
	if n := req.QueriesPerSecond; n != nil && (*n < 1 || *n > maxQueriesPerSecond) {
		return nil, invalidParameter("QueriesPerSecond", "%d is not 1 to %d", *n, maxQueriesPerSecond)
	}
	return done(c.changeUser(req.UserName, func(_ *store.Tx, u *store.User) error {
		quotas := maps.Clone(u.Quotas)
		if quotas == nil {
			quotas = make(map[string]float64)
		}
		delete(quotas, req.QuotaName)
		if req.QueriesPerSecond != nil {
			quotas[req.QuotaName] = float64(*req.QueriesPerSecond)
		}
		u.Quotas = quotas
		c.entry.Subject = clip(req.UserName + "/" + req.QuotaName)
		return nil
	}))
}

type getAuditHeadResponse struct {
	result
	Head string
}

// getAuditHead signs where the audit log is. Its own line comes behind that.
func getAuditHead(ctx context.Context, c *call, _ *noRequest) (*getAuditHeadResponse, error) {
	if err := c.commit(); err != nil {
		return nil, err
	}
	checkpoint, err := c.server.Audit.Checkpoint(ctx)
	return &getAuditHeadResponse{Head: checkpoint.String()}, err
}
