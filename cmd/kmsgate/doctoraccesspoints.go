package main

import (
	"context"
	"slices"
	"strings"
)

// examineAccessPoints says which permission policies name network rules that are
// gone, and which access points permission policies. That may be meant: what is
// deleted permits nothing any more.
func (p *patient) examineAccessPoints(ctx context.Context, d *diagnosis) {
	err := p.examinePermissionPolicies(ctx, d)
	if err == nil {
		err = p.examinePoliciesOfAccessPoints(ctx, d)
	}
	if err != nil {
		d.problem("ask again", "The access points could not be looked at: %v.", err)
	}
}

func (p *patient) examinePermissionPolicies(ctx context.Context, d *diagnosis) error {
	policies, err := describeAll[aapPolicyPage, aapPolicy](ctx, p.gateway, "ListPolicies", "DescribePolicy")
	if err != nil {
		return err
	}
	// After the policies: a rule that was made for one is there.
	rules, err := allNames[rulePage](ctx, p.gateway, "ListNetworkRules")
	if err != nil {
		return err
	}
	for _, policy := range policies {
		named, effect := policy.AccessControlRules.NetworkRules, "fewer"
		gone := without(named, rules)
		if len(gone) == len(named) {
			effect = "nobody"
		}
		if len(gone) > 0 {
			d.note("give it others (kmsgate aap policy update "+policy.Name+" --rule RULE, or --any-source for all addresses), or make them again (kmsgate aap rule create)",
				"The permission policy %s names network rules that are gone (%s), and lets %s in.", policy.Name, strings.Join(gone, ", "), effect)
		}
	}
	return nil
}

func (p *patient) examinePoliciesOfAccessPoints(ctx context.Context, d *diagnosis) error {
	accessPoints, err := describeAll[accessPointPage, accessPoint](ctx, p.gateway, "ListApplicationAccessPoints", "DescribeApplicationAccessPoint")
	if err != nil {
		return err
	}
	policies, err := allNames[aapPolicyPage](ctx, p.gateway, "ListPolicies")
	if err != nil {
		return err
	}
	for _, a := range accessPoints {
		gone, effect := without(a.Policies, policies), "less"
		if len(gone) == len(a.Policies) {
			effect = "nothing"
		}
		if len(gone) > 0 {
			d.note("give it others (kmsgate aap update "+a.Name+" --policy POLICY), or make them again (kmsgate aap policy create)",
				"The access point %s names permission policies that are gone (%s), and its client keys may do %s.", a.Name, strings.Join(gone, ", "), effect)
		}
	}
	return nil
}

// A namedPage is a page of a list of what carries names.
type namedPage interface {
	paged
	names() []string
}

func (p rulePage) names() (names []string) {
	for _, r := range p.NetworkRules.NetworkRule {
		names = append(names, r.Name)
	}
	return names
}

func (p aapPolicyPage) names() (names []string) {
	for _, policy := range p.Policies.Policy {
		names = append(names, policy.Name)
	}
	return names
}

func (p accessPointPage) names() (names []string) {
	for _, a := range p.ApplicationAccessPoints.ApplicationAccessPoint {
		names = append(names, a.Name)
	}
	return names
}

func allNames[Page namedPage](ctx context.Context, c caller, list string) ([]string, error) {
	return allPages(ctx, c, list, map[string]string{}, Page.names)
}

// describeAll describes all that a list has, but for what was deleted meanwhile.
func describeAll[Page namedPage, T any](ctx context.Context, c caller, list, describe string) (all []T, err error) {
	names, err := allNames[Page](ctx, c, list)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		var answer T
		err := c.Call(ctx, describe, map[string]string{"Name": name}, &answer)
		switch {
		case err == nil:
			all = append(all, answer)
		case !strings.HasPrefix(err.Error(), "404 "):
			return nil, err
		}
	}
	return all, nil
}

// without gives the names that are not among those that there are.
func without(names, there []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return slices.Contains(there, name) })
}
