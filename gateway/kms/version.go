package kms

// A KeyVersionItem describes a version of a key.
type KeyVersionItem struct {
	CreationDate string
	KeyId        string
	KeyVersionId string
}

// CreateKeyVersionRequest holds the parameters of CreateKeyVersion.
type CreateKeyVersionRequest struct {
	KeyId string `kms:"required"`
}

// A KeyVersionResponse describes one version of a key.
type KeyVersionResponse struct {
	Result
	KeyVersion KeyVersionItem
}

// DescribeKeyVersionRequest holds the parameters of DescribeKeyVersion.
type DescribeKeyVersionRequest struct {
	KeyId        string `kms:"required"`
	KeyVersionId string `kms:"required"`
}

// ListKeyVersionsRequest holds the parameters of ListKeyVersions.
type ListKeyVersionsRequest struct {
	KeyId      string `kms:"required"`
	PageNumber *int   `kms:"min=1"`
	PageSize   *int   `kms:"min=1,max=100"`
}

// ListKeyVersionUsesRequest holds the parameters of ListKeyVersionUses.
type ListKeyVersionUsesRequest struct {
	KeyId string `kms:"required"`
}

// A KeyVersionUse states when a version of a key last signed.
type KeyVersionUse struct {
	KeyVersionId string
	LastUsedDate string // empty if it never signed
}

// ListKeyVersionUsesResponse is the answer to ListKeyVersionUses.
type ListKeyVersionUsesResponse struct {
	Result
	KeyVersions struct{ KeyVersion []KeyVersionUse }
}

// ListKeyVersionsResponse is the answer to ListKeyVersions.
type ListKeyVersionsResponse struct {
	Result
	KeyVersions struct{ KeyVersion []KeyVersionItem }
	PageInfo
}
