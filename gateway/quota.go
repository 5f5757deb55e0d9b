package gateway

import (
	"context"
	"maps"
	"slices"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/gateway/limit"
	"github.com/kmsgate/kmsgate/store"
)

// listQuotas lists what holds for everybody, and then what users have instead. A
// limit of 0 is none.
func listQuotas(_ context.Context, c *call, _ *kms.NoRequest) (*kms.ListQuotasResponse, error) {
	if err := c.confirm(); err != nil {
		return nil, err
	}
	resp := new(kms.ListQuotasResponse)
	add := func(name kms.Quota, userName string, perSecond float64) {
		kind := SharedGateway
		if name == kms.QuotaDedicatedUser || name == kms.QuotaDedicatedInstance {
			kind = DedicatedGateway
		}
		resp.Quotas.Quota = append(resp.Quotas.Quota, kms.QuotaItem{Gateway: kind, QuotaName: string(name), UserName: userName, QueriesPerSecond: perSecond})
	}
	for _, name := range limit.Names() {
		add(name, "", c.server.config.Quotas.PerSecond(name, nil))
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
		return nil, kms.InvalidParameter("QuotaName", "%q is none that users have: ListQuotas names them", kms.Clip(req.QuotaName))
	}
	return done(updateUser(c, req.UserName, func(_ *store.Records, u *store.User) error {
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
