package identity

import (
	"github.com/kmsgate/kmsgate/policy"
	"github.com/kmsgate/kmsgate/store"
)

// SystemPolicies holds RAM's system policies for KMS, by name. They allow the actions that
// RAM's documentation lists (as of 2026-09-03) and the gateway has. They must not be changed.
var SystemPolicies = map[string]SystemPolicy{
	"AliyunKMSFullAccess": {"Full access to KMS", fullAccess},
	"AliyunKMSReadOnlyAccess": {"Read-only access to KMS",
		`{"Version":"1","Statement":[{"Effect":"Allow","Action":["kms:List*","kms:Describe*","kms:GetPublicKey",` +
			`"kms:GetKeyPolicy","kms:GetKmsInstance","kms:GetClientKey"],"Resource":"*"}]}`},
	"AliyunKMSCryptoUserAccess": {"Use of keys",
		`{"Version":"1","Statement":[{"Effect":"Allow","Action":["kms:AsymmetricSign","kms:AsymmetricVerify",` +
			`"kms:GetPublicKey"],"Resource":"*"}]}`},
	"AliyunKMSCryptoAdminAccess": {"Management and use of keys and aliases",
		`{"Version":"1","Statement":[{"Effect":"Allow","Action":"kms:*",` +
			`"Resource":["acs:kms:*:*:key*","acs:kms:*:*:alias*"]}]}`},
}

// A SystemPolicy is a RAM policy that exists in every account.
type SystemPolicy struct{ Description, Document string }

// fullAccess is also the policy of local administrators.
const fullAccess = `{"Version":"1","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*"}]}`

// rootPolicies are the policies of a local administrator.
var rootPolicies = []policy.Named{{Name: "AliyunKMSFullAccess", Policy: mustParse(fullAccess)}}

func mustParse(document string) *policy.Policy {
	p, err := policy.Parse(document)
	if err != nil {
		panic(err) // the document is a constant of this package
	}
	return p
}

// PolicyDocument returns the document of a system policy or, if no system policy has the
// name, of a RAM policy in records. The error is store.ErrNotFound if no policy has it.
func PolicyDocument(records *store.Records, policyName string) (string, error) {
	if p, ok := SystemPolicies[policyName]; ok {
		return p.Document, nil
	}
	p, err := records.RamPolicies().Get(policyName)
	return p.PolicyDocument, err
}
