package gateway

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/store"
)

// A quota is what operations are charged to. Operations of one quota share it.
type quota string

// The quotas of a shared gateway are those of KMS ("QPS quotas of KMS
// instances", as of 2026-03-31); the numbers are in documentedQuotas.
const (
	asymmetric   quota = "asymmetric"    // AsymmetricSign, AsymmetricVerify; GenerateRandom, which a shared gateway of KMS has not
	keyRead      quota = "key_read"      // what keys, versions, aliases and tags are
	keyWrite     quota = "key_write"     // changes of them
	keyCreation  quota = "key_creation"  // CreateKey
	tagQuery     quota = "tag_query"     // ListResourceTags
	instanceRead quota = "instance_read" // GetKmsInstance, ListKmsInstances
	activation   quota = "activation"    // OpenKmsService, DescribeAccountKmsStatus

	// What a dedicated gateway charges business operations to.
	dedicatedUser     quota = "dedicated"
	dedicatedInstance quota = "dedicated_instance"

	// Administration is charged to nothing: it comes from this machine.
	administration quota = "administration"
)

// documentedQuotas are KMS's, in queries per second for each user. (KMS counts
// them for an account; an account is what users have in common here.)
var documentedQuotas = map[quota]float64{asymmetric: 200, keyRead: 50, keyWrite: 30, keyCreation: 10, tagQuery: 300, instanceRead: 50, activation: 1}

// Quotas bounds what users may ask for, in queries per second. A bucket holds
// one second's worth, and at least one.
type Quotas struct {
	// Shared are the quotas of listeners of shared gateways, each for one user:
	// asymmetric, key_read, key_write, key_creation, tag_query, instance_read,
	// activation. What is not there is as KMS documents it.
	Shared map[string]float64

	// On listeners of dedicated gateways business operations are limited, for
	// each user and for all users together. Zero means as many as can be done.
	DedicatedUser     float64
	DedicatedInstance float64
}

func (q Quotas) check() error {
	for name, perSecond := range q.Shared {
		if _, ok := documentedQuotas[quota(name)]; !ok || perSecond <= 0 {
			return fmt.Errorf("gateway: Config.Quotas.Shared has %q: %g", name, perSecond)
		}
	}
	return nil
}

// perSecond gives a quota's limit for a user; 0 means none.
func (q Quotas) perSecond(name quota, user store.User) float64 {
	if own, ok := user.Quotas[string(name)]; ok {
		return own
	}
	switch name {
	case dedicatedUser:
		return q.DedicatedUser
	case dedicatedInstance:
		return q.DedicatedInstance
	}
	if perSecond, ok := q.Shared[string(name)]; ok {
		return perSecond
	}
	return documentedQuotas[name]
}

// isUserQuota reports whether a user can be given another limit of a quota.
func isUserQuota(name quota) bool { return name == dedicatedUser || documentedQuotas[name] > 0 }

// charge takes a call from what it is to be charged to, or gives
// Rejected.Throttling.
func (c *call) charge(o operation) error {
	names := c.listener.charges(o)
	if len(names) > 0 {
		c.entry.Quota = string(names[0])
	}
	for _, name := range names {
		perSecond := c.server.Quotas.perSecond(name, c.principal.user)
		userName := c.principal.user.UserName
		if name == dedicatedInstance {
			userName = ""
		}
		if !c.server.limiters.take(bucketId{userName, name}, perSecond, c.server.Now) {
			c.entry.Quota = string(name)
			return kms.ErrThrottling
		}
	}
	return nil
}

// limiters hold one token bucket for each user and quota, and for the instance.
type limiters struct {
	mu      sync.Mutex
	clock   clock                      // guarded by mu, like all below
	buckets map[bucketId]*rate.Limiter // as many as users × quotas
}

type bucketId struct {
	userName string // "" for all users together
	quota    quota
}

// take takes one from a bucket and reports whether there was one. A limit that
// was changed applies at once.
func (l *limiters) take(id bucketId, perSecond float64, now func() time.Time) bool {
	if perSecond <= 0 {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.clock.read(now)
	bucket, ok := l.buckets[id]
	if !ok {
		bucket = rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond)))
		if l.buckets == nil {
			l.buckets = make(map[bucketId]*rate.Limiter)
		}
		l.buckets[id] = bucket
	}
	if bucket.Limit() != rate.Limit(perSecond) {
		bucket.SetLimitAt(at, rate.Limit(perSecond))
		bucket.SetBurstAt(at, max(1, int(perSecond)))
	}
	return bucket.AllowN(at, 1)
}

// A clock never goes back: a bucket that is shown an earlier time than before
// gives for the time in between twice.
type clock struct{ last time.Time }

func (c *clock) read(now func() time.Time) time.Time {
	if at := now(); at.After(c.last) {
		c.last = at
	}
	return c.last
}

// listQuotas lists what holds for everybody, and then what users have instead. A
// limit of 0 is none.
func listQuotas(_ context.Context, c *call, _ *kms.NoRequest) (*kms.ListQuotasResponse, error) {
	if err := c.confirm(); err != nil {
		return nil, err
	}
	resp := new(kms.ListQuotasResponse)
	add := func(name quota, userName string, perSecond float64) {
		kind := SharedGateway
		if name == dedicatedUser || name == dedicatedInstance {
			kind = DedicatedGateway
		}
		resp.Quotas.Quota = append(resp.Quotas.Quota, kms.QuotaItem{Gateway: kind, QuotaName: string(name), UserName: userName, QueriesPerSecond: perSecond})
	}
	for _, name := range append(slices.Sorted(maps.Keys(documentedQuotas)), dedicatedUser, dedicatedInstance) {
		add(name, "", c.server.Quotas.perSecond(name, store.User{}))
	}
	for u := range c.records.Users().All() {
		for _, name := range slices.Sorted(maps.Keys(u.Quotas)) {
			add(quota(name), u.UserName, u.Quotas[name])
		}
	}
	return resp, nil
}

// maxQueriesPerSecond is more than any machine does.
const maxQueriesPerSecond = 1_000_000

func setUserQuota(_ context.Context, c *call, req *kms.SetUserQuotaRequest) (*kms.EmptyResponse, error) {
	if !isUserQuota(quota(req.QuotaName)) {
		return nil, kms.InvalidParameter("QuotaName", "%q is none that users have: ListQuotas (kmsgate quota list) names them", kms.Clip(req.QuotaName))
	}
	if n := req.QueriesPerSecond; n != nil && (*n < 1 || *n > maxQueriesPerSecond) {
		return nil, kms.InvalidParameter("QueriesPerSecond", "%d is not 1 to %d", *n, maxQueriesPerSecond)
	}
	return done(c.updateUser(req.UserName, func(_ *store.Records, u *store.User) error {
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
