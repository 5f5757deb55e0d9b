package gateway

import "github.com/kmsgate/kmsgate/policy"

// systemPolicies are RAM's for KMS, by name, with what RAM's pages of them say
// (as of 2026-09-03) as far as there is such an operation here. They cannot be
// changed.
var systemPolicies = map[string]systemPolicy{
	"AliyunKMSFullAccess": {"Full access to KMS", fullAccess},
	"AliyunKMSReadOnlyAccess": {"Read-only access to KMS",
		`{"Version":"1","Statement":[{"Effect":"Allow","Action":["kms:List*","kms:Describe*","kms:GetPublicKey","kms:GetKeyPolicy","kms:GetKmsInstance","kms:GetClientKey"],"Resource":"*"}]}`},
	"AliyunKMSCryptoUserAccess": {"To use keys",
		`{"Version":"1","Statement":[{"Effect":"Allow","Action":["kms:AsymmetricSign","kms:AsymmetricVerify","kms:GetPublicKey"],"Resource":"*"}]}`},
	"AliyunKMSCryptoAdminAccess": {"To manage and use keys and aliases",
		`{"Version":"1","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":["acs:kms:*:*:key*","acs:kms:*:*:alias*"]}]}`},
}

type systemPolicy struct{ description, document string }

// fullAccess is what a local administrator has, too.
const fullAccess = `{"Version":"1","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*"}]}`

// rootPolicies are those of a local administrator.
var rootPolicies = []policy.Named{{Name: "AliyunKMSFullAccess", Policy: mustParse(fullAccess)}}

func mustParse(document string) *policy.Policy {
	p, err := policy.Parse(document)
	if err != nil {
		panic(err) // a constant of ours
	}
	return p
}
