package kms

// A KeyVersionItem is a version of a key as the API shows it.
type KeyVersionItem struct {
	CreationDate string
	KeyId        string
	KeyVersionId string
}

type CreateKeyVersionRequest struct {
	KeyId string `kms:"required"`
}

// A KeyVersionResponse shows one version of a key.
type KeyVersionResponse struct {
	Result
	KeyVersion KeyVersionItem
}

type DescribeKeyVersionRequest struct {
	KeyId        string `kms:"required"`
	KeyVersionId string `kms:"required"`
}

type ListKeyVersionsRequest struct {
	KeyId      string `kms:"required"`
	PageNumber *int   `kms:"min=1"`
	PageSize   *int   `kms:"min=1,max=100"`
}

type ListKeyVersionsResponse struct {
	Result
	KeyVersions struct{ KeyVersion []KeyVersionItem }
	PageInfo
}
