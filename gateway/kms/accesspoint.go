package kms

// CreateApplicationAccessPointRequest holds the parameters of CreateApplicationAccessPoint.
type CreateApplicationAccessPointRequest struct {
	Name                 string `kms:"required"`
	Policies             string `kms:"required"`
	AuthenticationMethod string `kms:"oneof=ClientKey"`
	Description          string `kms:"chars=8192"`
}

// An AccessPointResponse describes an access point.
type AccessPointResponse struct {
	Result
	Arn                  string
	AuthenticationMethod string
	Description          string
	Name                 string
	Policies             string // JSON
}

// An AccessPointItem is an access point in a list.
type AccessPointItem struct {
	AuthenticationMethod string
	Name                 string
}

// ListApplicationAccessPointsResponse is the answer to ListApplicationAccessPoints.
type ListApplicationAccessPointsResponse struct {
	Result
	ApplicationAccessPoints struct{ ApplicationAccessPoint []AccessPointItem }
	PageInfo
}

// UpdateApplicationAccessPointRequest holds the parameters of UpdateApplicationAccessPoint. The
// operation changes the fields that are not nil.
type UpdateApplicationAccessPointRequest struct {
	Name        string  `kms:"required"`
	Description *string `kms:"chars=8192"`
	Policies    *string
}

// CreateNetworkRuleRequest holds the parameters of CreateNetworkRule.
type CreateNetworkRuleRequest struct {
	Name            string `kms:"required"`
	Type            string `kms:"required,oneof=Private"`
	SourcePrivateIp string `kms:"required"`
	Description     string `kms:"chars=8192"`
}

// A NetworkRule describes a network rule.
type NetworkRule struct {
	Arn             string
	Description     string
	SourcePrivateIp string // JSON
	Type            string
}

// CreateNetworkRuleResponse is the answer to CreateNetworkRule.
type CreateNetworkRuleResponse struct {
	Result
	NetworkRule
	Name string
}

// DescribeNetworkRuleResponse is the answer to DescribeNetworkRule.
type DescribeNetworkRuleResponse struct {
	Result
	NetworkRule
}

// A NetworkRuleItem is a network rule in a list.
type NetworkRuleItem struct {
	Name string
	Type string
}

// ListNetworkRulesResponse is the answer to ListNetworkRules.
type ListNetworkRulesResponse struct {
	Result
	NetworkRules struct{ NetworkRule []NetworkRuleItem }
	PageInfo
}

// UpdateNetworkRuleRequest holds the parameters of UpdateNetworkRule. The operation changes the
// fields that are not nil.
type UpdateNetworkRuleRequest struct {
	Name            string  `kms:"required"`
	Description     *string `kms:"chars=8192"`
	SourcePrivateIp *string
}

// CreatePolicyRequest holds the parameters of CreatePolicy.
type CreatePolicyRequest struct {
	Name               string `kms:"required"`
	Permissions        string `kms:"required"`
	Resources          string `kms:"required"`
	AccessControlRules string
	Description        string `kms:"chars=8192"`
	KmsInstance        string
}

// CreatePolicyResponse is the answer to CreatePolicy.
type CreatePolicyResponse struct {
	Result
	AccessControlRules string
	Arn                string
	Description        string
	KmsInstance        string
	Name               string
	Permissions        string // JSON
	Resources          string // JSON
}

// DescribePolicyResponse is the answer to DescribePolicy.
type DescribePolicyResponse struct {
	Result
	AccessControlRules string
	Arn                string
	Description        string
	KmsInstance        string
	Name               string
	Permissions        []string
	Resources          []string
}

// A PermissionPolicyItem is a permission policy in a list.
type PermissionPolicyItem struct{ Name string }

// ListPoliciesResponse is the answer to ListPolicies.
type ListPoliciesResponse struct {
	Result
	Policies struct{ Policy []PermissionPolicyItem }
	PageInfo
}

// UpdatePolicyRequest holds the parameters of UpdatePolicy. The operation changes the fields that
// are not nil. AccessControlRules without a network rule, "{}", admit all addresses. Empty
// AccessControlRules are refused, because an empty parameter does not state that intent.
type UpdatePolicyRequest struct {
	Name               string `kms:"required"`
	AccessControlRules *string
	Description        *string `kms:"chars=8192"`
	Permissions        *string
	Resources          *string
}
