package limit

import (
	"fmt"
	"maps"
	"slices"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// documentedQuotas are the quotas that KMS documents, in queries per second. KMS counts them
// for each account. The gateway counts them for each user, since all users share one account.
var documentedQuotas = map[kms.Quota]float64{
	kms.QuotaAsymmetric:   200,
	kms.QuotaKeyRead:      50,
	kms.QuotaKeyWrite:     30,
	kms.QuotaKeyCreation:  10,
	kms.QuotaTagQuery:     300,
	kms.QuotaInstanceRead: 50,
	kms.QuotaActivation:   1,
}

// dedicatedOther is the default of [Quotas.DedicatedOther]. KMS allows an account half of that for
// reading keys and less for changing them. Only for listing the tags of keys it allows more.
const dedicatedOther = 100

// DefaultQuotas returns the quotas of a new configuration: those that KMS documents, and for a
// dedicated gateway 100 requests per second that are not business operations.
func DefaultQuotas() Quotas {
	shared := make(map[string]float64)
	for name, perSecond := range documentedQuotas {
		shared[string(name)] = perSecond
	}
	return Quotas{Shared: shared, DedicatedOther: dedicatedOther}
}

// Quotas is the limits of an instance, in queries per second.
type Quotas struct {
	// Shared is the limits of one user on listeners of shared gateways, by the name of the
	// quota: asymmetric, key_read, key_write, key_creation, tag_query, instance_read,
	// activation. A quota that is missing has the limit that KMS documents.
	Shared map[string]float64

	// DedicatedUser and DedicatedInstance limit business operations on listeners of
	// dedicated gateways, for one user and for all users together. Zero means no limit.
	DedicatedUser     float64
	DedicatedInstance float64

	// DedicatedOther limits all other requests of one user on listeners of dedicated gateways,
	// also those for operations that do not exist. Zero means no limit.
	DedicatedOther float64
}

// Check returns an error if Shared names an unknown quota or has a limit that is not
// positive.
func (q Quotas) Check() error {
	for name, perSecond := range q.Shared {
		if _, ok := documentedQuotas[kms.Quota(name)]; !ok {
			return fmt.Errorf("shared gateways have no quota %q", name)
		}
		if perSecond <= 0 {
			return fmt.Errorf("the quota %q of shared gateways is %g, but must be positive", name, perSecond)
		}
	}
	return nil
}

// PerSecond returns the limit of a quota for a user. A limit in userLimits, which is set for
// this user alone, overrides that of q. Zero means no limit.
func (q Quotas) PerSecond(quota kms.Quota, userLimits map[string]float64) float64 {
	if perSecond, ok := userLimits[string(quota)]; ok {
		return perSecond
	}
	switch quota {
	case kms.QuotaDedicatedUser:
		return q.DedicatedUser
	case kms.QuotaDedicatedInstance:
		return q.DedicatedInstance
	case kms.QuotaDedicatedOther:
		return q.DedicatedOther
	}
	if perSecond, ok := q.Shared[string(quota)]; ok {
		return perSecond
	}
	return documentedQuotas[quota]
}

// Names returns the names of all quotas, those of shared gateways first.
func Names() []kms.Quota {
	shared := slices.Sorted(maps.Keys(documentedQuotas))
	return append(shared, kms.QuotaDedicatedUser, kms.QuotaDedicatedInstance, kms.QuotaDedicatedOther)
}

// IsUserQuota reports whether a quota can have a different limit for each user.
func IsUserQuota(quota kms.Quota) bool {
	return quota == kms.QuotaDedicatedUser || quota == kms.QuotaDedicatedOther || documentedQuotas[quota] > 0
}
