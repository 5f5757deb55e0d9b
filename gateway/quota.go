package gateway

import (
	"context"
	"maps"
	"slices"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/gateway/limit"
	"github.com/kmsgate/kmsgate/store"
)

// charge takes a call from what it is to be charged to, or gives
// Rejected.Throttling.
func (c *call) charge(o operation) error {
	names := c.listener.charges(o)
	if len(names) > 0 {
		c.entry.Quota = string(names[0])
	}
	for _, name := range names {
		perSecond := c.server.Quotas.PerSecond(name, c.principal.Quotas)
		userName := c.principal.Name
		if name == limit.DedicatedInstance {
			userName = ""
		}
		if !c.server.buckets.Take(userName, name, perSecond, c.server.Now) {
			c.entry.Quota = string(name)
			return kms.ErrThrottling
		}
	}
	return nil
}

// listQuotas lists what holds for everybody, and then what users have instead. A
// limit of 0 is none.
func listQuotas(_ context.Context, c *call, _ *kms.NoRequest) (*kms.ListQuotasResponse, error) {
	if err := c.confirm(); err != nil {
		return nil, err
	}
	resp := new(kms.ListQuotasResponse)
	add := func(name limit.Quota, userName string, perSecond float64) {
		kind := SharedGateway
		if name == limit.DedicatedUser || name == limit.DedicatedInstance {
			kind = DedicatedGateway
		}
		resp.Quotas.Quota = append(resp.Quotas.Quota, kms.QuotaItem{Gateway: kind, QuotaName: string(name), UserName: userName, QueriesPerSecond: perSecond})
	}
	for _, name := range limit.Names() {
		add(name, "", c.server.Quotas.PerSecond(name, nil))
	}
	for u := range c.records.Users().All() {
		for _, name := range slices.Sorted(maps.Keys(u.Quotas)) {
			add(limit.Quota(name), u.UserName, u.Quotas[name])
		}
	}
	return resp, nil
}

// maxQueriesPerSecond is more than any machine does.
const maxQueriesPerSecond = 1_000_000

func setUserQuota(_ context.Context, c *call, req *kms.SetUserQuotaRequest) (*kms.EmptyResponse, error) {
	if !limit.IsUserQuota(limit.Quota(req.QuotaName)) {
		return nil, kms.InvalidParameter("QuotaName", "%q is none that users have: ListQuotas (kmsgate quota list) names them", kms.Clip(req.QuotaName))
	}
	if n := req.QueriesPerSecond; n != nil && (*n < 1 || *n > maxQueriesPerSecond) {
		return nil, kms.InvalidParameter("QueriesPerSecond", "%d is not 1 to %d", *n, maxQueriesPerSecond)
	}
	return done(c.updateUser(req.UserName, func(_ *store.Records, u *store.User) error {
		own := maps.Clone(u.Quotas)
		if own == nil {
			own = make(map[string]float64)
		}
		delete(own, req.QuotaName)
		if req.QueriesPerSecond != nil {
			own[req.QuotaName] = float64(*req.QueriesPerSecond)
		}
		u.Quotas = own
		c.entry.Subject = kms.Clip(req.UserName + "/" + req.QuotaName)
		return nil
	}))
}
