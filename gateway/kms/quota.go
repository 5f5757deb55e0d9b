package kms

// A Quota limits the rate of the operations that are charged to it. They share the limit.
type Quota string

// The quotas of a shared gateway are those of KMS ("QPS quotas of KMS instances", as of
// 2026-03-31). Package limit has the numbers.
const (
	// AsymmetricSign and AsymmetricVerify; also GenerateRandom, which a shared gateway of KMS does
	// not offer.
	QuotaAsymmetric Quota = "asymmetric"

	QuotaKeyRead      Quota = "key_read"      // reading keys, versions, aliases, tags and access points
	QuotaKeyWrite     Quota = "key_write"     // changing them
	QuotaKeyCreation  Quota = "key_creation"  // CreateKey
	QuotaTagQuery     Quota = "tag_query"     // ListResourceTags
	QuotaInstanceRead Quota = "instance_read" // GetKmsInstance, ListKmsInstances
	QuotaActivation   Quota = "activation"    // OpenKmsService, DescribeAccountKmsStatus

	// A dedicated gateway charges business operations to these two quotas.
	QuotaDedicatedUser     Quota = "dedicated"
	QuotaDedicatedInstance Quota = "dedicated_instance"

	// A dedicated gateway charges all other requests to this quota.
	QuotaDedicatedOther Quota = "dedicated_other"

	// QuotaAdministration has no limit, because administration is local to the machine.
	QuotaAdministration Quota = "administration"
)
