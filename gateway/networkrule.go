package gateway

import (
	"context"
	"net/netip"

	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/store"
)

// privateType is the only Type of network rules.
const privateType = "Private"

var networkRules = collection[store.NetworkRule]{
	"network rule", (*store.Records).NetworkRules, (*store.Tx).NetworkRules,
}

// parseSources parses SourcePrivateIp. It requires at least one address: a rule without
// addresses would exclude everybody, which cannot be the intention.
func parseSources(text string) ([]string, error) {
	const parameter = "SourcePrivateIp"
	seen := make(map[netip.Prefix]bool)
	return parseNames(parameter, text, 1, kms.MaxList, func(source string) error {
		prefix, ok := identity.ParseSource(source)
		if !ok {
			return kms.InvalidParameter(parameter, "%q is neither an address nor a prefix like 10.0.0.0/8", kms.Clip(source))
		}
		if seen[prefix] {
			return kms.InvalidParameter(parameter, "it has %q twice", source)
		}
		seen[prefix] = true
		return nil
	})
}

func newNetworkRule(c *call, r store.NetworkRule) kms.NetworkRule {
	return kms.NetworkRule{Arn: c.namedARN(r.Name), Description: r.Description,
		SourcePrivateIp: jsonText(r.SourcePrivateIp), Type: privateType}
}

func createNetworkRule(
	_ context.Context, c *call, req *kms.CreateNetworkRuleRequest,
) (*kms.CreateNetworkRuleResponse, error) {
	sources, err := parseSources(req.SourcePrivateIp)
	if err != nil {
		return nil, err
	}
	r := store.NetworkRule{Name: req.Name, Description: req.Description, SourcePrivateIp: sources, CreationDate: c.now}
	if err := networkRules.create(c, r.Name, r, func(*store.Records) error { return nil }); err != nil {
		return nil, err
	}
	return &kms.CreateNetworkRuleResponse{NetworkRule: newNetworkRule(c, r), Name: r.Name}, nil
}

func describeNetworkRule(_ context.Context, c *call, req *kms.NameRequest) (*kms.DescribeNetworkRuleResponse, error) {
	r, err := networkRules.describe(c, req.Name)
	if err != nil {
		return nil, err
	}
	return &kms.DescribeNetworkRuleResponse{NetworkRule: newNetworkRule(c, r)}, nil
}

func listNetworkRules(_ context.Context, c *call, req *kms.ListNamedRequest) (*kms.ListNetworkRulesResponse, error) {
	all, page, err := networkRules.list(c, req)
	if err != nil {
		return nil, err
	}
	resp := &kms.ListNetworkRulesResponse{PageInfo: page}
	resp.NetworkRules.NetworkRule = []kms.NetworkRuleItem{} // an empty list is [], not null
	for _, r := range all {
		resp.NetworkRules.NetworkRule = append(resp.NetworkRules.NetworkRule,
			kms.NetworkRuleItem{Name: r.Name, Type: privateType})
	}
	return resp, nil
}

func updateNetworkRule(_ context.Context, c *call, req *kms.UpdateNetworkRuleRequest) (*kms.EmptyResponse, error) {
	sources, err := parseOptional(req.SourcePrivateIp, parseSources)
	if err != nil {
		return nil, err
	}
	return emptyResponse(networkRules.update(c, req.Name, func(_ *store.Records, r *store.NetworkRule) error {
		setOptional(&r.Description, req.Description)
		setOptional(&r.SourcePrivateIp, sources)
		return nil
	}))
}

func deleteNetworkRule(_ context.Context, c *call, req *kms.NameRequest) (*kms.EmptyResponse, error) {
	return emptyResponse(networkRules.delete(c, req.Name))
}
