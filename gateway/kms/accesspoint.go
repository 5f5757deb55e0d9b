package kms

type CreateApplicationAccessPointRequest struct {
	Name                 string `kms:"required"`
	Policies             string `kms:"required"`
	AuthenticationMethod string `kms:"oneof=ClientKey"`
	Description          string `kms:"chars=8192"`
}

// AccessPointResponse is an access point as the API shows it.
type AccessPointResponse struct {
	Result
	Arn                  string
	AuthenticationMethod string
	Description          string
	Name                 string
	Policies             string // JSON
}

// An AccessPointItem is an access point as lists show it.
type AccessPointItem struct {
	AuthenticationMethod string
	Name                 string
}

type ListApplicationAccessPointsResponse struct {
	Result
	ApplicationAccessPoints struct{ ApplicationAccessPoint []AccessPointItem }
	PageInfo
}

// UpdateApplicationAccessPointRequest changes the fields that are not nil.
type UpdateApplicationAccessPointRequest struct {
	Name        string  `kms:"required"`
	Description *string `kms:"chars=8192"`
	Policies    *string
}

type CreateNetworkRuleRequest struct {
	Name            string `kms:"required"`
	Type            string `kms:"required,oneof=Private"`
	SourcePrivateIp string `kms:"required"`
	Description     string `kms:"chars=8192"`
}

// A NetworkRule is a network rule as the API shows it.
type NetworkRule struct {
	Arn             string
	Description     string
	SourcePrivateIp string // JSON
	Type            string
}

type CreateNetworkRuleResponse struct {
	Result
	NetworkRule
	Name string
}

type DescribeNetworkRuleResponse struct {
	Result
	NetworkRule
}

// A NetworkRuleItem is a network rule as lists show it.
type NetworkRuleItem struct {
	Name string
	Type string
}

type ListNetworkRulesResponse struct {
	Result
	NetworkRules struct{ NetworkRule []NetworkRuleItem }
	PageInfo
}

// UpdateNetworkRuleRequest changes the fields that are not nil.
type UpdateNetworkRuleRequest struct {
	Name            string  `kms:"required"`
	Description     *string `kms:"chars=8192"`
	SourcePrivateIp *string
}

type CreatePolicyRequest struct {
	Name               string `kms:"required"`
	Permissions        string `kms:"required"`
	Resources          string `kms:"required"`
	AccessControlRules string
	Description        string `kms:"chars=8192"`
	KmsInstance        string
}

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

// A PermissionPolicyItem is a permission policy as lists show it.
type PermissionPolicyItem struct{ Name string }

type ListPoliciesResponse struct {
	Result
	Policies struct{ Policy []PermissionPolicyItem }
	PageInfo
}

// UpdatePolicyRequest changes the fields that are not nil. AccessControlRules without a
// network rule admit all addresses. Empty AccessControlRules are refused, because they do
// not say that.
type UpdatePolicyRequest struct {
	Name               string `kms:"required"`
	AccessControlRules *string
	Description        *string `kms:"chars=8192"`
	Permissions        *string
	Resources          *string
}
