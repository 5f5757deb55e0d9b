package kms

type KeyVersionItem struct {
	CreationDate string
	KeyId        string
	KeyVersionId string
}

type CreateKeyVersionRequest struct {
	KeyId string `kms:"required"`
}

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
