package kms

type CreateAliasRequest struct {
	AliasName string `kms:"required"`
	KeyId     string `kms:"required"`
}

type DeleteAliasRequest struct {
	AliasName string `kms:"required"`
}

type UpdateAliasRequest struct {
	AliasName string `kms:"required"`
	KeyId     string `kms:"required"`
}

type ListAliasesByKeyIdRequest struct {
	KeyId      string `kms:"required"`
	PageNumber *int   `kms:"min=1"`
	PageSize   *int   `kms:"min=1,max=100"`
}

type ListAliasesRequest struct {
	PageNumber *int `kms:"min=1"`
	PageSize   *int `kms:"min=1,max=100"`
}

// An AliasItem is an alias as lists show it.
type AliasItem struct {
	AliasArn  string
	AliasName string
	KeyId     string
}

type ListAliasesResponse struct {
	Result
	Aliases struct{ Alias []AliasItem }
	PageInfo
}
