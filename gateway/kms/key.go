package kms

// A KeyMetadata is a key as the API shows it. All members are strings, and
// those that do not apply are empty, not missing, as the real service has it.
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

type CreateKeyRequest struct {
	KeySpec                 string
	KeyUsage                string
	Origin                  string
	ProtectionLevel         string
	Description             string
	DKMSInstanceId          string
	EnableAutomaticRotation *bool
	RotationInterval        string
	Policy                  string
	Tags                    string
}

type CreateKeyResponse struct {
	Result
	KeyMetadata KeyMetadata
}

type DescribeKeyRequest struct {
	KeyId string `kms:"required"`
}

type DescribeKeyResponse struct {
	Result
	KeyMetadata struct {
		KeyMetadata
		DeletionProtection            string
		DeletionProtectionDescription string
	}
}

type ListKeysRequest struct {
	PageNumber *int
	PageSize   *int
	Filters    string
}

type KeyItem struct {
	KeyArn string
	KeyId  string
}

type ListKeysResponse struct {
	Result
	Keys struct{ Key []KeyItem }
	PageInfo
}

type SetKeyPolicyRequest struct {
	KeyId      string `kms:"required"`
	Policy     string `kms:"required"`
	PolicyName string
}

type GetKeyPolicyRequest struct {
	KeyId      string `kms:"required"`
	PolicyName string
}

type GetKeyPolicyResponse struct {
	Result
	Policy string
}

type KeyRequest struct {
	KeyId string `kms:"required"`
}

type ScheduleKeyDeletionRequest struct {
	KeyId               string `kms:"required"`
	PendingWindowInDays *int   `kms:"required"`
}

type SetDeletionProtectionRequest struct {
	ProtectedResourceArn          string
	KeyId                         string // from v4 of the SDK on
	EnableDeletionProtection      *bool  `kms:"required"`
	DeletionProtectionDescription string
}

type UpdateKeyDescriptionRequest struct {
	KeyId       string `kms:"required"`
	Description string `kms:"sent"`
}
