package doctor

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// examineAccessPoints finds permission policies that name deleted network rules, and access
// points that name deleted permission policies. These findings are notes, because a deleted
// rule or policy permits nothing, which can be intended.
func (dr *Doctor) examineAccessPoints(ctx context.Context, d *Diagnosis) {
	err := dr.examinePermissionPolicies(ctx, d)
	if err == nil {
		err = dr.examinePoliciesOfAccessPoints(ctx, d)
	}
	if err != nil {
		d.problem("run kmsgate doctor again", "The access points could not be examined: %v.", err)
	}
}

func (dr *Doctor) examinePermissionPolicies(ctx context.Context, d *Diagnosis) error {
	names, err := listNames(ctx, dr.gateway, target.PermissionPolicies,
		func(i kms.PermissionPolicyItem) string { return i.Name })
	if err != nil {
		return err
	}
	policies, err := describeAll[kms.DescribePolicyResponse](ctx, dr.gateway, "DescribePolicy", names)
	if err != nil {
		return err
	}
	// The rules are listed after the policies, so that every rule a policy names exists
	// unless it was deleted.
	rules, err := listNames(ctx, dr.gateway, target.NetworkRules, func(i kms.NetworkRuleItem) string { return i.Name })
	if err != nil {
		return err
	}
	for _, policy := range policies {
		var control struct{ NetworkRules []string }
		if err := unmarshal(policy.AccessControlRules, &control); err != nil {
			return err
		}
		deleted, effect := absent(control.NetworkRules, rules), "fewer addresses"
		if len(deleted) == len(control.NetworkRules) {
			effect = "no address"
		}
		if len(deleted) > 0 {
			d.note("name existing rules with kmsgate aap permission update "+policy.Name+" --rule RULE, admit all "+
				"addresses with --any-source, or create the rules again with kmsgate aap rule create",
				"The permission policy %s names deleted network rules (%s), so it admits %s.",
				policy.Name, strings.Join(deleted, ", "), effect)
		}
	}
	return nil
}

func (dr *Doctor) examinePoliciesOfAccessPoints(ctx context.Context, d *Diagnosis) error {
	names, err := listNames(ctx, dr.gateway, target.AccessPoints, func(i kms.AccessPointItem) string { return i.Name })
	if err != nil {
		return err
	}
	accessPoints, err := describeAll[kms.AccessPointResponse](ctx, dr.gateway, "DescribeApplicationAccessPoint", names)
	if err != nil {
		return err
	}
	policies, err := listNames(ctx, dr.gateway, target.PermissionPolicies,
		func(i kms.PermissionPolicyItem) string { return i.Name })
	if err != nil {
		return err
	}
	for _, a := range accessPoints {
		var named []string
		if err := unmarshal(a.Policies, &named); err != nil {
			return err
		}
		deleted, effect := absent(named, policies), "less"
		if len(deleted) == len(named) {
			effect = "nothing"
		}
		if len(deleted) > 0 {
			d.note("name existing policies with kmsgate aap update "+a.Name+" --permission NAME, or create them "+
				"again with kmsgate aap permission create",
				"The access point %s names deleted permission policies (%s), so its client keys may do %s.",
				a.Name, strings.Join(deleted, ", "), effect)
		}
	}
	return nil
}

// unmarshal decodes a list that the API returns as JSON in a string. An empty string is an
// empty list.
func unmarshal(text string, into any) error {
	if text == "" {
		return nil
	}
	return json.Unmarshal([]byte(text), into)
}

func listNames[Page, Item any](
	ctx context.Context, c target.Caller, list target.List[Page, Item], name func(Item) string,
) (names []string, err error) {
	items, err := list.All(ctx, c, nil)
	for _, i := range items {
		names = append(names, name(i))
	}
	return names, err
}

// describeAll calls the operation describe for each name. It leaves out whatever was deleted
// after the names were listed.
func describeAll[T any](ctx context.Context, c target.Caller, describe string, names []string) (all []T, err error) {
	for _, name := range names {
		var answer T
		err := c.Call(ctx, describe, map[string]string{"Name": name}, &answer)
		switch {
		case err == nil:
			all = append(all, answer)
		case !isNotFound(err):
			return nil, err
		}
	}
	return all, nil
}

// absent returns the names that are not among the existing ones.
func absent(names, existing []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return slices.Contains(existing, name) })
}
