package kms

// CreateUserRequest holds the parameters of CreateUser.
type CreateUserRequest struct {
	UserName string `kms:"required"`
	Comments string `kms:"bytes=128"`
}

// A UserItem describes a user.
type UserItem struct {
	UserName   string
	Comments   string
	CreateDate string
	Policies   struct{ Policy []string }
	AccessKeys int
}

// CreateUserResponse is the answer to CreateUser.
type CreateUserResponse struct {
	Result
	User UserItem
}

// ListUsersResponse is the answer to ListUsers.
type ListUsersResponse struct {
	Result
	Users struct{ User []UserItem }
}

// DeleteUserRequest holds the parameters of DeleteUser.
type DeleteUserRequest struct {
	UserName string `kms:"required"`
	Force    *bool  // also deletes the user's access keys and detaches the user's policies
}

// CreateAccessKeyRequest holds the parameters of CreateAccessKey.
type CreateAccessKeyRequest struct {
	UserName string `kms:"required"`
}

// CreateAccessKeyResponse is the answer to CreateAccessKey. No other answer contains the secret.
type CreateAccessKeyResponse struct {
	Result
	AccessKeyId     string
	AccessKeySecret string
	UserName        string
	Status          string
	CreateDate      string
}

// ListAccessKeysRequest holds the parameters of ListAccessKeys.
type ListAccessKeysRequest struct {
	UserName string // empty means all users
}

// An AccessKeyItem is an access key in a list.
type AccessKeyItem struct {
	AccessKeyId  string
	UserName     string
	Status       string
	CreateDate   string
	LastUsedDate string // empty if the key was never used
}

// ListAccessKeysResponse is the answer to ListAccessKeys.
type ListAccessKeysResponse struct {
	Result
	AccessKeys struct{ AccessKey []AccessKeyItem }
}

// UpdateAccessKeyRequest holds the parameters of UpdateAccessKey.
type UpdateAccessKeyRequest struct {
	AccessKeyId string `kms:"required"`
	Status      string `kms:"required,oneof=Active|Inactive"`
}

// DeleteAccessKeyRequest holds the parameters of DeleteAccessKey.
type DeleteAccessKeyRequest struct {
	AccessKeyId string `kms:"required"`
}

// A QuotaItem is the limit of a quota for one user, or the default for all users.
type QuotaItem struct {
	Gateway          string
	QuotaName        string
	UserName         string // empty means all users
	QueriesPerSecond float64
}

// ListQuotasResponse is the answer to ListQuotas.
type ListQuotasResponse struct {
	Result
	Quotas struct{ Quota []QuotaItem }
}

// SetUserQuotaRequest holds the parameters of SetUserQuota.
type SetUserQuotaRequest struct {
	UserName         string `kms:"required"`
	QuotaName        string `kms:"required"`
	QueriesPerSecond *int   `kms:"min=1,max=1000000"` // nil means the default for all users
}
