package kms

// ListNamedRequest asks for a page of a collection.
type ListNamedRequest struct {
	PageNumber *int `kms:"min=1"`
	PageSize   *int `kms:"min=1,max=100"`
}

// NamedPageSize is the default page size of collections. KMS has 10 for other lists.
const NamedPageSize = 20

// NameRequest asks for one record of a collection.
type NameRequest struct {
	Name string `kms:"required"`
}
