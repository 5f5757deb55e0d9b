package limit

import (
	"fmt"
	"maps"
	"slices"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// documentedQuotas are KMS's, in queries per second for each user. (KMS counts
// them for an account; an account is what users have in common here.)
var documentedQuotas = map[kms.Quota]float64{kms.QuotaAsymmetric: 200, kms.QuotaKeyRead: 50, kms.QuotaKeyWrite: 30, kms.QuotaKeyCreation: 10, kms.QuotaTagQuery: 300, kms.QuotaInstanceRead: 50, kms.QuotaActivation: 1}

// DefaultQuotas returns what holds where [Quotas] say nothing: the quotas that KMS
// documents.
func DefaultQuotas() Quotas {
	shared := make(map[string]float64)
	for name, perSecond := range documentedQuotas {
		shared[string(name)] = perSecond
	}
	return Quotas{Shared: shared}
}

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

// Check refuses a quota that there is not, and one of nothing.
func (q Quotas) Check() error {
	for name, perSecond := range q.Shared {
		if _, ok := documentedQuotas[kms.Quota(name)]; !ok || perSecond <= 0 {
			return fmt.Errorf("quotas of shared gateways: %q cannot be %g", name, perSecond)
		}
	}
	return nil
}

// PerSecond returns a quota's limit, for a user who has some of their own; 0 means
// none.
func (q Quotas) PerSecond(name kms.Quota, own map[string]float64) float64 {
	if perSecond, ok := own[string(name)]; ok {
		return perSecond
	}
	switch name {
	case kms.QuotaDedicatedUser:
		return q.DedicatedUser
	case kms.QuotaDedicatedInstance:
		return q.DedicatedInstance
	}
	if perSecond, ok := q.Shared[string(name)]; ok {
		return perSecond
	}
	return documentedQuotas[name]
}

// Names lists the quotas, those of shared gateways first.
func Names() []kms.Quota {
	return append(slices.Sorted(maps.Keys(documentedQuotas)), kms.QuotaDedicatedUser, kms.QuotaDedicatedInstance)
}

// IsUserQuota reports whether a user can be given another limit of a quota.
func IsUserQuota(name kms.Quota) bool {
	return name == kms.QuotaDedicatedUser || documentedQuotas[name] > 0
}
