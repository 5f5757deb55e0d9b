package doctor

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// examineAccessPoints finds permission policies that name network rules which are gone,
// and access points that name such permission policies. That may be intended: what is
// deleted permits nothing any more.
func (dr *Doctor) examineAccessPoints(ctx context.Context, d *Diagnosis) {
	err := dr.examinePermissionPolicies(ctx, d)
	if err == nil {
		err = dr.examinePoliciesOfAccessPoints(ctx, d)
	}
	if err != nil {
		d.problem("ask again", "The access points could not be looked at: %v.", err)
	}
}

func (dr *Doctor) examinePermissionPolicies(ctx context.Context, d *Diagnosis) error {
	names, err := namesOf(ctx, dr.gateway, target.PermissionPolicies, func(i kms.PermissionPolicyItem) string { return i.Name })
	if err != nil {
		return err
	}
	policies, err := describeAll[kms.DescribePolicyResponse](ctx, dr.gateway, "DescribePolicy", names)
	if err != nil {
		return err
	}
	// After the policies: a rule that was made for one of them exists.
	rules, err := namesOf(ctx, dr.gateway, target.NetworkRules, func(i kms.NetworkRuleItem) string { return i.Name })
	if err != nil {
		return err
	}
	for _, policy := range policies {
		var control struct{ NetworkRules []string }
		if err := unmarshal(policy.AccessControlRules, &control); err != nil {
			return err
		}
		gone, effect := without(control.NetworkRules, rules), "fewer"
		if len(gone) == len(control.NetworkRules) {
			effect = "nobody"
		}
		if len(gone) > 0 {
			d.note("give it others (kmsgate aap policy update "+policy.Name+" --rule RULE, or --any-source for all addresses), or make them again (kmsgate aap rule create)",
				"The permission policy %s names network rules that are gone (%s), and lets %s in.", policy.Name, strings.Join(gone, ", "), effect)
		}
	}
	return nil
}

func (dr *Doctor) examinePoliciesOfAccessPoints(ctx context.Context, d *Diagnosis) error {
	names, err := namesOf(ctx, dr.gateway, target.AccessPoints, func(i kms.AccessPointItem) string { return i.Name })
	if err != nil {
		return err
	}
	accessPoints, err := describeAll[kms.AccessPointResponse](ctx, dr.gateway, "DescribeApplicationAccessPoint", names)
	if err != nil {
		return err
	}
	policies, err := namesOf(ctx, dr.gateway, target.PermissionPolicies, func(i kms.PermissionPolicyItem) string { return i.Name })
	if err != nil {
		return err
	}
	for _, a := range accessPoints {
		var named []string
		if err := unmarshal(a.Policies, &named); err != nil {
			return err
		}
		gone, effect := without(named, policies), "less"
		if len(gone) == len(named) {
			effect = "nothing"
		}
		if len(gone) > 0 {
			d.note("give it others (kmsgate aap update "+a.Name+" --policy POLICY), or make them again (kmsgate aap policy create)",
				"The access point %s names permission policies that are gone (%s), and its client keys may do %s.", a.Name, strings.Join(gone, ", "), effect)
		}
	}
	return nil
}

// unmarshal decodes a list that the API answers with as JSON in a string. An empty string
// is an empty list.
func unmarshal(text string, into any) error {
	if text == "" {
		return nil
	}
	return json.Unmarshal([]byte(text), into)
}

func namesOf[Page, Item any](ctx context.Context, c target.Caller, list target.List[Page, Item], name func(Item) string) (names []string, err error) {
	items, err := list.All(ctx, c, nil)
	for _, i := range items {
		names = append(names, name(i))
	}
	return names, err
}

// describeAll describes everything with these names, except what was deleted since they
// were listed.
func describeAll[T any](ctx context.Context, c target.Caller, describe string, names []string) (all []T, err error) {
	for _, name := range names {
		var answer T
		err := c.Call(ctx, describe, map[string]string{"Name": name}, &answer)
		switch {
		case err == nil:
			all = append(all, answer)
		case !isGone(err):
			return nil, err
		}
	}
	return all, nil
}

// without returns the names that do not exist.
func without(names, existing []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return slices.Contains(existing, name) })
}
