package kms

// A KeyMetadata describes a key. All members are strings. Members that do not apply are empty
// rather than missing, as in Alibaba Cloud KMS.
type KeyMetadata struct {
	Arn                string
	AutomaticRotation  string
	CreationDate       string
	Creator            string
	DKMSInstanceId     string
	DeleteDate         string
	Description        string
	KeyId              string
	KeySpec            string
	KeyState           string
	KeyUsage           string
	LastRotationDate   string
	MaterialExpireTime string
	NextRotationDate   string
	Origin             string
	PrimaryKeyVersion  string // asymmetric keys have none
	ProtectionLevel    string
	RotationInterval   string
}

// CreateKeyRequest holds the parameters of CreateKey.
type CreateKeyRequest struct {
	KeySpec                 string
	KeyUsage                string `kms:"oneof=SIGN/VERIFY|ENCRYPT/DECRYPT"`
	Origin                  string `kms:"oneof=Aliyun_KMS|EXTERNAL"`
	ProtectionLevel         string `kms:"oneof=SOFTWARE|HSM"`
	Description             string `kms:"chars=8192"`
	DKMSInstanceId          string
	EnableAutomaticRotation *bool
	RotationInterval        string
	Policy                  string
	Tags                    string
}

// CreateNamedKeyRequest holds the parameters of CreateNamedKey: an alias, and some of CreateKey's.
type CreateNamedKeyRequest struct {
	AliasName   string `kms:"required"`
	KeySpec     string `kms:"required"`
	Description string `kms:"chars=8192"`
	Policy      string
	Tags        string
}

// CreateKeyResponse is the answer to CreateKey and CreateNamedKey.
type CreateKeyResponse struct {
	Result
	KeyMetadata KeyMetadata
}

// DescribeKeyRequest holds the parameters of DescribeKey.
type DescribeKeyRequest struct {
	KeyId string `kms:"required"`
}

// A KeyDetails describes a key in the answer to DescribeKey.
type KeyDetails struct {
	KeyMetadata
	DeletionProtection            string
	DeletionProtectionDescription string
}

// DescribeKeyResponse is the answer to DescribeKey.
type DescribeKeyResponse struct {
	Result
	KeyMetadata KeyDetails
}

// ListKeysRequest holds the parameters of ListKeys.
type ListKeysRequest struct {
	PageNumber *int `kms:"min=1"`
	PageSize   *int `kms:"min=1,max=100"`
	Filters    string
}

// A KeyItem is a key in a list.
type KeyItem struct {
	KeyArn string
	KeyId  string
}

// ListKeysResponse is the answer to ListKeys.
type ListKeysResponse struct {
	Result
	Keys struct{ Key []KeyItem }
	PageInfo
}

// SetKeyPolicyRequest holds the parameters of SetKeyPolicy.
type SetKeyPolicyRequest struct {
	KeyId      string `kms:"required"`
	Policy     string `kms:"required"`
	PolicyName string
}

// GetKeyPolicyRequest holds the parameters of GetKeyPolicy.
type GetKeyPolicyRequest struct {
	KeyId      string `kms:"required"`
	PolicyName string
}

// GetKeyPolicyResponse is the answer to GetKeyPolicy.
type GetKeyPolicyResponse struct {
	Result
	Policy string
}

// A KeyRequest names a key.
type KeyRequest struct {
	KeyId string `kms:"required"`
}

// ScheduleKeyDeletionRequest holds the parameters of ScheduleKeyDeletion.
type ScheduleKeyDeletionRequest struct {
	KeyId               string `kms:"required"`
	PendingWindowInDays *int   `kms:"required,min=7,max=366"`
}

// SetDeletionProtectionRequest holds the parameters of SetDeletionProtection.
type SetDeletionProtectionRequest struct {
	ProtectedResourceArn          string
	KeyId                         string // sent by SDK v4 and later
	EnableDeletionProtection      *bool  `kms:"required"`
	DeletionProtectionDescription string `kms:"chars=8192"`
}

// UpdateKeyDescriptionRequest holds the parameters of UpdateKeyDescription.
type UpdateKeyDescriptionRequest struct {
	KeyId       string `kms:"required"`
	Description string `kms:"sent,chars=8192"`
}
