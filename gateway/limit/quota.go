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

// Quotas are the limits of an instance, in queries per second.
type Quotas struct {
	// Shared are the limits on listeners of shared gateways, each for one user, by the
	// quota's name: asymmetric, key_read, key_write, key_creation, tag_query,
	// instance_read, activation. Quotas that are missing have the limit that KMS documents.
	Shared map[string]float64

	// DedicatedUser and DedicatedInstance limit business operations on listeners of
	// dedicated gateways, for each user and for all users together. Zero means no limit.
	DedicatedUser     float64
	DedicatedInstance float64
}

// Check returns an error if Shared names an unknown quota, or has a limit that is not
// positive.
func (q Quotas) Check() error {
	for name, perSecond := range q.Shared {
		if _, ok := documentedQuotas[kms.Quota(name)]; !ok || perSecond <= 0 {
			return fmt.Errorf("quotas of shared gateways: %q cannot be %g", name, perSecond)
		}
	}
	return nil
}

// PerSecond returns the limit of a quota for a user whose own limits are own. Zero means
// no limit.
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

// Names returns the names of all quotas, those of shared gateways first.
func Names() []kms.Quota {
	return append(slices.Sorted(maps.Keys(documentedQuotas)), kms.QuotaDedicatedUser, kms.QuotaDedicatedInstance)
}

// IsUserQuota reports whether users can have their own limit of a quota.
func IsUserQuota(name kms.Quota) bool {
	return name == kms.QuotaDedicatedUser || documentedQuotas[name] > 0
}
