package kms

// A ListNamedRequest asks for a page of a collection.
type ListNamedRequest struct {
	PageNumber *int `kms:"min=1"`
	PageSize   *int `kms:"min=1,max=100"`
}

// NamedPageSize is the default page size of collections. For other lists it is DefaultPageSize, as
// in KMS.
const NamedPageSize = 20

// A NameRequest names a record of a collection.
type NameRequest struct {
	Name string `kms:"required"`
}
