package kms

// CreateAliasRequest holds the parameters of CreateAlias.
type CreateAliasRequest struct {
	AliasName string `kms:"required"`
	KeyId     string `kms:"required"`
}

// DeleteAliasRequest holds the parameters of DeleteAlias.
type DeleteAliasRequest struct {
	AliasName string `kms:"required"`
}

// UpdateAliasRequest holds the parameters of UpdateAlias.
type UpdateAliasRequest struct {
	AliasName string `kms:"required"`
	KeyId     string `kms:"required"`
}

// ListAliasesByKeyIdRequest holds the parameters of ListAliasesByKeyId.
type ListAliasesByKeyIdRequest struct {
	KeyId      string `kms:"required"`
	PageNumber *int   `kms:"min=1"`
	PageSize   *int   `kms:"min=1,max=100"`
}

// ListAliasesRequest holds the parameters of ListAliases.
type ListAliasesRequest struct {
	PageNumber *int `kms:"min=1"`
	PageSize   *int `kms:"min=1,max=100"`
}

// An AliasItem is an alias in a list.
type AliasItem struct {
	AliasArn  string
	AliasName string
	KeyId     string
}

// ListAliasesResponse is the answer to ListAliases.
type ListAliasesResponse struct {
	Result
	Aliases struct{ Alias []AliasItem }
	PageInfo
}
