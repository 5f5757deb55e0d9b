package identity

import (
	"github.com/kmsgate/kmsgate/policy"
	"github.com/kmsgate/kmsgate/store"
)

// SystemPolicies are RAM's system policies for KMS, by name. They allow what RAM's pages say
// (as of 2026-09-03), as far as the gateway has such operations. They must not be changed.
var SystemPolicies = map[string]SystemPolicy{
	"AliyunKMSFullAccess": {"Full access to KMS", fullAccess},
	"AliyunKMSReadOnlyAccess": {"Read-only access to KMS",
		`{"Version":"1","Statement":[{"Effect":"Allow","Action":["kms:List*","kms:Describe*","kms:GetPublicKey","kms:GetKeyPolicy","kms:GetKmsInstance","kms:GetClientKey"],"Resource":"*"}]}`},
	"AliyunKMSCryptoUserAccess": {"To use keys",
		`{"Version":"1","Statement":[{"Effect":"Allow","Action":["kms:AsymmetricSign","kms:AsymmetricVerify","kms:GetPublicKey"],"Resource":"*"}]}`},
	"AliyunKMSCryptoAdminAccess": {"To manage and use keys and aliases",
		`{"Version":"1","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":["acs:kms:*:*:key*","acs:kms:*:*:alias*"]}]}`},
}

// A SystemPolicy is a RAM policy that every account has.
type SystemPolicy struct{ Description, Document string }

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

// PolicyDocument returns the document of a system policy or, if there is none of that name,
// of a RAM policy in records. Its error is store.ErrNotFound if there is neither.
func PolicyDocument(records *store.Records, policyName string) (string, error) {
	if p, ok := SystemPolicies[policyName]; ok {
		return p.Document, nil
	}
	p, err := records.RamPolicies().Get(policyName)
	return p.PolicyDocument, err
}
