package kms

type CreateRamPolicyRequest struct {
	PolicyName     string `kms:"required"`
	PolicyDocument string `kms:"required"`
	Description    string `kms:"bytes=128"`
}

type UpdateRamPolicyRequest struct {
	PolicyName     string `kms:"required"`
	PolicyDocument string `kms:"required"`
}

// A RamPolicyRequest names a RAM policy.
type RamPolicyRequest struct {
	PolicyName string `kms:"required"`
}

// A RamPolicyItem is a RAM policy as lists show it.
type RamPolicyItem struct {
	PolicyName      string
	PolicyType      string
	Description     string
	AttachmentCount int
	CreateDate      string
	UpdateDate      string
}

type GetRamPolicyResponse struct {
	Result
	Policy struct {
		RamPolicyItem
		PolicyDocument string
	}
}

type ListRamPoliciesResponse struct {
	Result
	Policies struct{ Policy []RamPolicyItem }
}

// A PolicyAttachmentRequest attaches a RAM policy to a user, or detaches it.
type PolicyAttachmentRequest struct {
	PolicyName string `kms:"required"`
	UserName   string `kms:"required"`
}

type SimulatePolicyRequest struct {
	UserName   string `kms:"required"` // of a user, or aap: and the Name of an access point
	ActionName string `kms:"required"` // with or without "kms:"; or as the native door calls it
	KeyId      string // a KeyId, an alias or an ARN; for actions on a key
	Name       string // of a network rule, permission policy or access point; for actions on one, or on its client keys
	SourceIp   string
}

type SimulatePolicyResponse struct {
	Result
	Allowed    bool
	Reason     string
	PolicyName string
	Statement  int
	Resource   string
}
