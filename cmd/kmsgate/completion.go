package main

import (
	"context"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// Completers of names that a running gateway knows.
var (
	userNames = cli.NamesOf("ListUsers", func(l kms.ListUsersResponse) (names []string) {
		for _, u := range l.Users.User {
			names = append(names, u.UserName)
		}
		return names
	})
	policyNames = cli.NamesOf("ListRamPolicies", func(l kms.ListRamPoliciesResponse) (names []string) {
		for _, p := range l.Policies.Policy {
			names = append(names, p.PolicyName)
		}
		return names
	})
	accessKeyIds = cli.NamesOf("ListAccessKeys", func(l kms.ListAccessKeysResponse) (names []string) {
		for _, k := range l.AccessKeys.AccessKey {
			names = append(names, k.AccessKeyId)
		}
		return names
	})
	clientKeyIds = cli.NamesOf("ListClientKeys", func(l kms.ListClientKeysResponse) (names []string) {
		for _, k := range l.ClientKeys {
			names = append(names, k.ClientKeyId)
		}
		return names
	})
	quotaNames = cli.NamesOf("ListQuotas", func(l kms.ListQuotasResponse) (names []string) {
		for _, q := range l.Quotas.Quota {
			names = append(names, q.QuotaName)
		}
		return names
	})
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
