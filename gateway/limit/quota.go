package limit

import (
	"fmt"
	"maps"
	"slices"
)

// A Quota is what operations are charged to. Operations of one quota share it.
type Quota string

// The quotas of a shared gateway are those of KMS ("QPS quotas of KMS
// instances", as of 2026-03-31); the numbers are in documentedQuotas.
const (
	Asymmetric   Quota = "asymmetric"    // AsymmetricSign, AsymmetricVerify; GenerateRandom, which a shared gateway of KMS has not
	KeyRead      Quota = "key_read"      // what keys, versions, aliases and tags are
	KeyWrite     Quota = "key_write"     // changes of them
	KeyCreation  Quota = "key_creation"  // CreateKey
	TagQuery     Quota = "tag_query"     // ListResourceTags
	InstanceRead Quota = "instance_read" // GetKmsInstance, ListKmsInstances
	Activation   Quota = "activation"    // OpenKmsService, DescribeAccountKmsStatus

	// What a dedicated gateway charges business operations to.
	DedicatedUser     Quota = "dedicated"
	DedicatedInstance Quota = "dedicated_instance"

	// Administration is charged to nothing: it comes from this machine.
	Administration Quota = "administration"
)

// documentedQuotas are KMS's, in queries per second for each user. (KMS counts
// them for an account; an account is what users have in common here.)
var documentedQuotas = map[Quota]float64{Asymmetric: 200, KeyRead: 50, KeyWrite: 30, KeyCreation: 10, TagQuery: 300, InstanceRead: 50, Activation: 1}

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
		if _, ok := documentedQuotas[Quota(name)]; !ok || perSecond <= 0 {
			return fmt.Errorf("quotas of shared gateways: %q cannot be %g", name, perSecond)
		}
	}
	return nil
}

// PerSecond returns a quota's limit, for a user who has some of their own; 0 means
// none.
func (q Quotas) PerSecond(name Quota, own map[string]float64) float64 {
	if perSecond, ok := own[string(name)]; ok {
		return perSecond
	}
	switch name {
	case DedicatedUser:
		return q.DedicatedUser
	case DedicatedInstance:
		return q.DedicatedInstance
	}
	if perSecond, ok := q.Shared[string(name)]; ok {
		return perSecond
	}
	return documentedQuotas[name]
}

// Names lists the quotas, those of shared gateways first.
func Names() []Quota {
	return append(slices.Sorted(maps.Keys(documentedQuotas)), DedicatedUser, DedicatedInstance)
}

// IsUserQuota reports whether a user can be given another limit of a quota.
func IsUserQuota(name Quota) bool { return name == DedicatedUser || documentedQuotas[name] > 0 }
