package kms

// CreateRamPolicyRequest holds the parameters of CreateRamPolicy.
type CreateRamPolicyRequest struct {
	PolicyName     string `kms:"required"`
	PolicyDocument string `kms:"required"`
	Description    string `kms:"bytes=128"`
}

// UpdateRamPolicyRequest holds the parameters of UpdateRamPolicy.
type UpdateRamPolicyRequest struct {
	PolicyName     string `kms:"required"`
	PolicyDocument string `kms:"required"`
}

// A RamPolicyRequest names a RAM policy.
type RamPolicyRequest struct {
	PolicyName string `kms:"required"`
}

// A RamPolicyItem is a RAM policy in a list.
type RamPolicyItem struct {
	PolicyName      string
	PolicyType      string
	Description     string
	AttachmentCount int
	CreateDate      string
	UpdateDate      string
}

// GetRamPolicyResponse is the answer to GetRamPolicy.
type GetRamPolicyResponse struct {
	Result
	Policy struct {
		RamPolicyItem
		PolicyDocument string
	}
}

// ListRamPoliciesResponse is the answer to ListRamPolicies.
type ListRamPoliciesResponse struct {
	Result
	Policies struct{ Policy []RamPolicyItem }
}

// A PolicyAttachmentRequest names a RAM policy and the user that it is attached to or detached
// from.
type PolicyAttachmentRequest struct {
	PolicyName string `kms:"required"`
	UserName   string `kms:"required"`
}

// SimulatePolicyRequest holds the parameters of SimulatePolicy.
type SimulatePolicyRequest struct {
	UserName   string `kms:"required"` // a user, or "aap:" and the Name of an access point
	ActionName string `kms:"required"` // with or without "kms:", or an ApiName of the native API
	KeyId      string // a KeyId, an alias or an ARN; for actions on a key

	// Name is that of a network rule, permission policy or access point, for actions on it or on
	// its client keys.
	Name     string
	SourceIp string
}

// SimulatePolicyResponse is the answer to SimulatePolicy.
type SimulatePolicyResponse struct {
	Result
	Allowed    bool
	Reason     string
	PolicyName string
	Statement  int
	Resource   string
}
