package gateway

import (
	"context"
	"maps"
	"slices"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/gateway/limit"
	"github.com/kmsgate/kmsgate/store"
)

// listQuotas lists the general quotas, and then those of single users, which replace them.
// A quota of 0 means that there is no limit.
func listQuotas(_ context.Context, c *call, _ *kms.NoRequest) (*kms.ListQuotasResponse, error) {
	if err := c.confirm(); err != nil {
		return nil, err
	}
	resp := new(kms.ListQuotasResponse)
	add := func(name kms.Quota, userName string, perSecond float64) {
		kind := SharedGateway
		switch name {
		case kms.QuotaDedicatedUser, kms.QuotaDedicatedInstance, kms.QuotaDedicatedOther:
			kind = DedicatedGateway
		}
		resp.Quotas.Quota = append(resp.Quotas.Quota, kms.QuotaItem{Gateway: kind, QuotaName: string(name),
			UserName: userName, QueriesPerSecond: perSecond})
	}
	for _, name := range limit.Names() {
		add(name, "", c.server.quotas.Load().PerSecond(name, nil))
	}
	for u := range c.records.Users().All() {
		for _, name := range slices.Sorted(maps.Keys(u.Quotas)) {
			add(kms.Quota(name), u.UserName, u.Quotas[name])
		}
	}
	return resp, nil
}

func setUserQuota(_ context.Context, c *call, req *kms.SetUserQuotaRequest) (*kms.EmptyResponse, error) {
	if !limit.IsUserQuota(kms.Quota(req.QuotaName)) {
		return nil, kms.InvalidParameter("QuotaName", "users have no quota %q: ListQuotas lists the names",
			kms.Clip(req.QuotaName))
	}
	return emptyResponse(updateUser(c, req.UserName, func(_ *store.Records, u *store.User) error {
		quotas := maps.Clone(u.Quotas)
		if quotas == nil {
			quotas = make(map[string]float64)
		}
		delete(quotas, req.QuotaName)
		if req.QueriesPerSecond != nil {
			quotas[req.QuotaName] = float64(*req.QueriesPerSecond)
		}
		u.Quotas = quotas
		c.entry.Subject = kms.Clip(req.UserName + "/" + req.QuotaName)
		return nil
	}))
}
