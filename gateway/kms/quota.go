package kms

// A Quota is what operations are charged to. Operations of one quota share it.
type Quota string

// The quotas of a shared gateway are those of KMS ("QPS quotas of KMS
// instances", as of 2026-03-31); package limit has the numbers.
const (
	QuotaAsymmetric   Quota = "asymmetric"    // AsymmetricSign, AsymmetricVerify; GenerateRandom, which a shared gateway of KMS has not
	QuotaKeyRead      Quota = "key_read"      // what keys, versions, aliases and tags are
	QuotaKeyWrite     Quota = "key_write"     // changes of them
	QuotaKeyCreation  Quota = "key_creation"  // CreateKey
	QuotaTagQuery     Quota = "tag_query"     // ListResourceTags
	QuotaInstanceRead Quota = "instance_read" // GetKmsInstance, ListKmsInstances
	QuotaActivation   Quota = "activation"    // OpenKmsService, DescribeAccountKmsStatus

	// What a dedicated gateway charges business operations to.
	QuotaDedicatedUser     Quota = "dedicated"
	QuotaDedicatedInstance Quota = "dedicated_instance"

	// Administration is charged to nothing: it comes from this machine.
	QuotaAdministration Quota = "administration"
)
