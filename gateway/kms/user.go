package kms

type CreateUserRequest struct {
	UserName string `kms:"required"`
	Comments string `kms:"bytes=128"`
}

// A UserItem is a user as the API shows it.
type UserItem struct {
	UserName   string
	Comments   string
	CreateDate string
	Policies   struct{ Policy []string }
	AccessKeys int
}

type CreateUserResponse struct {
	Result
	User UserItem
}

type ListUsersResponse struct {
	Result
	Users struct{ User []UserItem }
}

type DeleteUserRequest struct {
	UserName string `kms:"required"`
	Force    *bool  // with access keys and policies
}

type CreateAccessKeyRequest struct {
	UserName string `kms:"required"`
}

// CreateAccessKeyResponse is the only answer that shows the secret.
type CreateAccessKeyResponse struct {
	Result
	AccessKeyId     string
	AccessKeySecret string
	UserName        string
	Status          string
	CreateDate      string
}

type ListAccessKeysRequest struct {
	UserName string // all users if empty
}

// An AccessKeyItem is an access key as lists show it.
type AccessKeyItem struct {
	AccessKeyId  string
	UserName     string
	Status       string
	CreateDate   string
	LastUsedDate string // empty if never
}

type ListAccessKeysResponse struct {
	Result
	AccessKeys struct{ AccessKey []AccessKeyItem }
}

type UpdateAccessKeyRequest struct {
	AccessKeyId string `kms:"required"`
	Status      string `kms:"required,oneof=Active|Inactive"`
}

type DeleteAccessKeyRequest struct {
	AccessKeyId string `kms:"required"`
}

// A QuotaItem is a limit of a quota, for one user or for everybody.
type QuotaItem struct {
	Gateway          string
	QuotaName        string
	UserName         string // empty: everybody
	QueriesPerSecond float64
}

type ListQuotasResponse struct {
	Result
	Quotas struct{ Quota []QuotaItem }
}

type SetUserQuotaRequest struct {
	UserName         string `kms:"required"`
	QuotaName        string `kms:"required"`
	QueriesPerSecond *int   `kms:"min=1,max=1000000"` // what everybody has if it is not sent
}
