package target

import (
	"context"
	"fmt"
	"maps"
	"strconv"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// A List is an operation that answers with a list in pages.
type List[Page, Item any] struct {
	Action string
	Items  func(Page) ([]Item, kms.PageInfo)
}

// The operations that answer with lists in pages.
var (
	Keys = List[kms.ListKeysResponse, kms.KeyItem]{"ListKeys",
		func(p kms.ListKeysResponse) ([]kms.KeyItem, kms.PageInfo) { return p.Keys.Key, p.PageInfo }}
	KeyVersions = List[kms.ListKeyVersionsResponse, kms.KeyVersionItem]{"ListKeyVersions",
		func(p kms.ListKeyVersionsResponse) ([]kms.KeyVersionItem, kms.PageInfo) {
			return p.KeyVersions.KeyVersion, p.PageInfo
		}}
	Aliases      = List[kms.ListAliasesResponse, kms.AliasItem]{"ListAliases", aliases}
	AliasesOfKey = List[kms.ListAliasesResponse, kms.AliasItem]{"ListAliasesByKeyId", aliases}
	AccessPoints = List[kms.ListApplicationAccessPointsResponse, kms.AccessPointItem]{"ListApplicationAccessPoints",
		func(p kms.ListApplicationAccessPointsResponse) ([]kms.AccessPointItem, kms.PageInfo) {
			return p.ApplicationAccessPoints.ApplicationAccessPoint, p.PageInfo
		}}
	PermissionPolicies = List[kms.ListPoliciesResponse, kms.PermissionPolicyItem]{"ListPolicies",
		func(p kms.ListPoliciesResponse) ([]kms.PermissionPolicyItem, kms.PageInfo) {
			return p.Policies.Policy, p.PageInfo
		}}
	NetworkRules = List[kms.ListNetworkRulesResponse, kms.NetworkRuleItem]{"ListNetworkRules",
		func(p kms.ListNetworkRulesResponse) ([]kms.NetworkRuleItem, kms.PageInfo) {
			return p.NetworkRules.NetworkRule, p.PageInfo
		}}
)

func aliases(p kms.ListAliasesResponse) ([]kms.AliasItem, kms.PageInfo) {
	return p.Aliases.Alias, p.PageInfo
}

// pageSize is the largest that the API allows.
const pageSize = 100

// All calls the operation for every page and returns the items of all pages.
func (l List[Page, Item]) All(ctx context.Context, c Caller, parameters map[string]string) ([]Item, error) {
	var all []Item
	for n := 1; ; n++ {
		var page Page
		request := maps.Clone(parameters)
		if request == nil {
			request = make(map[string]string)
		}
		request["PageNumber"], request["PageSize"] = strconv.Itoa(n), strconv.Itoa(pageSize)
		if err := c.Call(ctx, l.Action, request, &page); err != nil {
			return nil, err
		}
		items, info := l.Items(page)
		all = append(all, items...)
		if len(items) == 0 || n*pageSize >= info.TotalCount {
			return all, nil
		}
	}
}

// Instance returns the ARN of a gateway's instance.
func Instance(ctx context.Context, c Caller) (string, error) {
	var answer kms.ListKmsInstancesResponse
	if err := c.Call(ctx, "ListKmsInstances", nil, &answer); err != nil {
		return "", err
	}
	if len(answer.KmsInstances.KmsInstance) != 1 {
		return "", fmt.Errorf("the gateway has %d instances instead of one", len(answer.KmsInstances.KmsInstance))
	}
	return answer.KmsInstances.KmsInstance[0].KmsInstanceArn, nil
}

// EveryKeyVersion returns the versions of every key.
func EveryKeyVersion(ctx context.Context, c Caller) (all []kms.KeyVersionItem, err error) {
	keys, err := Keys.All(ctx, c, nil)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		versions, err := KeyVersions.All(ctx, c, map[string]string{"KeyId": k.KeyId})
		if err != nil {
			return nil, err
		}
		all = append(all, versions...)
	}
	return all, nil
}

// TestKeyVersion has a key version sign count times and returns how long it took.
func TestKeyVersion(ctx context.Context, c Caller, v kms.KeyVersionItem, count string) (kms.TestKeyVersionResponse, error) {
	t := kms.TestKeyVersionResponse{KeyId: v.KeyId, KeyVersionId: v.KeyVersionId}
	err := c.Call(ctx, "TestKeyVersion", map[string]string{"KeyId": v.KeyId, "KeyVersionId": v.KeyVersionId, "Count": count}, &t)
	return t, err
}
