package gateway

import (
	"context"
	"errors"
	"net/netip"

	"github.com/kmsgate/kmsgate/store"
)

// privateType is the only Type of network rules.
const privateType = "Private"

var networkRules = collection[store.NetworkRule]{"network rule", (*store.Records).NetworkRules, (*store.Tx).NetworkRules}

// parseSources reads SourcePrivateIp. A rule without addresses would let nobody
// in, which nobody means who makes one.
func parseSources(text string) ([]string, error) {
	const parameter = "SourcePrivateIp"
	seen := make(map[netip.Prefix]bool)
	return parseNames(parameter, text, 1, maxList, func(source string) error {
		prefix, ok := parseSource(source)
		if !ok {
			return invalidParameter(parameter, "%q is neither an address nor a prefix like 10.0.0.0/8", clip(source))
		}
		if seen[prefix] {
			return invalidParameter(parameter, "%q is there twice", source)
		}
		seen[prefix] = true
		return nil
	})
}

// parseSource reads an address, or a prefix, in which KMS's own examples set bits
// beyond its length: they say nothing. It takes no IPv4 address in IPv6 form:
// what such a prefix contains is not what it looks like.
func parseSource(source string) (netip.Prefix, bool) {
	prefix, err := netip.ParsePrefix(source)
	if a, addrErr := netip.ParseAddr(source); addrErr == nil && a.Zone() == "" {
		prefix, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	return prefix.Masked(), err == nil && !prefix.Addr().Is4In6()
}

type createNetworkRuleRequest struct {
	Name            string `kms:"required"`
	Type            string `kms:"required"`
	SourcePrivateIp string `kms:"required"`
	Description     string
}

// A networkRule is a network rule as the API shows it.
type networkRule struct {
	Arn             string
	Description     string
	SourcePrivateIp string // JSON
	Type            string
}

func (c *call) networkRule(r store.NetworkRule) networkRule {
	return networkRule{c.server.namedARN(c.action, r.Name), r.Description, jsonText(r.SourcePrivateIp), privateType}
}

type createNetworkRuleResponse struct {
	result
	networkRule
	Name string
}

func createNetworkRule(_ context.Context, c *call, req *createNetworkRuleRequest) (*createNetworkRuleResponse, error) {
	if req.Type != privateType {
		return nil, invalidParameter("Type", "%q is not %s", clip(req.Type), privateType)
	}
	sources, err := parseSources(req.SourcePrivateIp)
	if err := errors.Join(err, checkDescription("Description", req.Description)); err != nil {
		return nil, err
	}
	r := store.NetworkRule{Name: req.Name, Description: req.Description, SourcePrivateIp: sources, CreationDate: c.now}
	if err := networkRules.create(c, r.Name, r, func(*store.Records) error { return nil }); err != nil {
		return nil, err
	}
	return &createNetworkRuleResponse{networkRule: c.networkRule(r), Name: r.Name}, nil
}

type describeNetworkRuleResponse struct {
	result
	networkRule
}

func describeNetworkRule(_ context.Context, c *call, req *nameRequest) (*describeNetworkRuleResponse, error) {
	r, err := networkRules.describe(c, req.Name)
	if err != nil {
		return nil, err
	}
	return &describeNetworkRuleResponse{networkRule: c.networkRule(r)}, nil
}

type networkRuleItem struct {
	Name string
	Type string
}

type listNetworkRulesResponse struct {
	result
	NetworkRules struct{ NetworkRule []networkRuleItem }
	pageInfo
}

func listNetworkRules(_ context.Context, c *call, req *listNamedRequest) (*listNetworkRulesResponse, error) {
	all, page, err := networkRules.list(c, req)
	if err != nil {
		return nil, err
	}
	resp := &listNetworkRulesResponse{pageInfo: page}
	resp.NetworkRules.NetworkRule = []networkRuleItem{} // an empty list is [], not null
	for _, r := range all {
		resp.NetworkRules.NetworkRule = append(resp.NetworkRules.NetworkRule, networkRuleItem{r.Name, privateType})
	}
	return resp, nil
}

// updateNetworkRuleRequest changes what it has.
type updateNetworkRuleRequest struct {
	Name            string `kms:"required"`
	Description     *string
	SourcePrivateIp *string
}

func updateNetworkRule(_ context.Context, c *call, req *updateNetworkRuleRequest) (*emptyResponse, error) {
	sources, err := ifSent(req.SourcePrivateIp, parseSources)
	if err := errors.Join(err, checkNewDescription(req.Description)); err != nil {
		return nil, err
	}
	return done(networkRules.update(c, req.Name, func(_ *store.Records, r *store.NetworkRule) error {
		setIfSent(&r.Description, req.Description)
		setIfSent(&r.SourcePrivateIp, sources)
		return nil
	}))
}

func deleteNetworkRule(_ context.Context, c *call, req *nameRequest) (*emptyResponse, error) {
	return done(networkRules.delete(c, req.Name))
}
