package main

import (
	"context"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// Completers of names that a running gateway knows.
var (
	userNames = cli.NamesOf("ListUsers",
		func(l kms.ListUsersResponse) []kms.UserItem { return l.Users.User }, func(i kms.UserItem) string { return i.UserName })
	policyNames = cli.NamesOf("ListRamPolicies",
		func(l kms.ListRamPoliciesResponse) []kms.RamPolicyItem { return l.Policies.Policy }, func(i kms.RamPolicyItem) string { return i.PolicyName })
	accessKeyIds = cli.NamesOf("ListAccessKeys",
		func(l kms.ListAccessKeysResponse) []kms.AccessKeyItem { return l.AccessKeys.AccessKey }, func(i kms.AccessKeyItem) string { return i.AccessKeyId })
	clientKeyIds = cli.NamesOf("ListClientKeys",
		func(l kms.ListClientKeysResponse) []kms.ClientKeyItem { return l.ClientKeys }, func(i kms.ClientKeyItem) string { return i.ClientKeyId })
	quotaNames = cli.NamesOf("ListQuotas",
		func(l kms.ListQuotasResponse) []kms.QuotaItem { return l.Quotas.Quota }, func(i kms.QuotaItem) string { return i.QuotaName })
	aliasNames       = cli.NamesInPages(target.Aliases, func(a kms.AliasItem) string { return a.AliasName })
	keyIds           = cli.NamesInPages(target.Keys, func(k kms.KeyItem) string { return k.KeyId })
	accessPointNames = cli.NamesInPages(target.AccessPoints, func(a kms.AccessPointItem) string { return a.Name })
	permissionNames  = cli.NamesInPages(target.PermissionPolicies, func(p kms.PermissionPolicyItem) string { return p.Name })
	ruleNames        = cli.NamesInPages(target.NetworkRules, func(r kms.NetworkRuleItem) string { return r.Name })
)

// keyNames returns what can name a key: aliases and KeyIds.
func keyNames(ctx context.Context, c target.Caller) ([]string, error) {
	aliases, err := aliasNames(ctx, c)
	if err != nil {
		return nil, err
	}
	ids, err := keyIds(ctx, c)
	return append(aliases, ids...), err
}

// operationNames completes the names of operations, which need no gateway.
func operationNames(context.Context, target.Caller) ([]string, error) { return operations(), nil }
