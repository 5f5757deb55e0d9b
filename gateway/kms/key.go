package kms

// A KeyMetadata is a key as the API shows it. All members are strings; those that do not
// apply are empty and not missing, as in the real service.
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

type CreateKeyResponse struct {
	Result
	KeyMetadata KeyMetadata
}

type DescribeKeyRequest struct {
	KeyId string `kms:"required"`
}

// KeyDetails is a key as DescribeKey shows it.
type KeyDetails struct {
	KeyMetadata
	DeletionProtection            string
	DeletionProtectionDescription string
}

type DescribeKeyResponse struct {
	Result
	KeyMetadata KeyDetails
}

type ListKeysRequest struct {
	PageNumber *int `kms:"min=1"`
	PageSize   *int `kms:"min=1,max=100"`
	Filters    string
}

// A KeyItem is a key as lists show it.
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

// A KeyRequest names a key.
type KeyRequest struct {
	KeyId string `kms:"required"`
}

type ScheduleKeyDeletionRequest struct {
	KeyId               string `kms:"required"`
	PendingWindowInDays *int   `kms:"required,min=7,max=366"`
}

type SetDeletionProtectionRequest struct {
	ProtectedResourceArn          string
	KeyId                         string // from v4 of the SDK on
	EnableDeletionProtection      *bool  `kms:"required"`
	DeletionProtectionDescription string `kms:"chars=8192"`
}

type UpdateKeyDescriptionRequest struct {
	KeyId       string `kms:"required"`
	Description string `kms:"sent,chars=8192"`
}
