package kms

type TagResourceRequest struct {
	KeyId         string
	SecretName    string
	CertificateId string
	Tags          string `kms:"required"`
}

type UntagResourceRequest struct {
	KeyId         string
	SecretName    string
	CertificateId string
	TagKeys       string `kms:"required"`
}

// A ResourceTag is a tag of a key.
type ResourceTag struct {
	KeyId    string
	TagKey   string
	TagValue string
}

type ListResourceTagsResponse struct {
	Result
	Tags struct{ Tag []ResourceTag }
}

// A TagItem is a member of the list Tag.
type TagItem struct{ Key, Value string }

type TagResourcesRequest struct {
	RegionId     string    `kms:"required"`
	ResourceType string    `kms:"required"`
	ResourceId   []string  `kms:"required"`
	Tag          []TagItem `kms:"required"`
}

type UntagResourcesRequest struct {
	RegionId     string   `kms:"required"`
	ResourceType string   `kms:"required"`
	ResourceId   []string `kms:"required"`
	TagKey       []string
	All          *bool
}

type ListTagResourcesRequest struct {
	RegionId     string `kms:"required"`
	ResourceType string `kms:"required"`
	ResourceId   []string
	Tag          []TagItem
	NextToken    string
}

// A TagResourceItem is a tag of a resource, as ListTagResources shows it.
type TagResourceItem struct {
	ResourceId   string
	ResourceType string
	TagKey       string
	TagValue     string
}

type ListTagResourcesResponse struct {
	Result
	TagResources struct{ TagResource []TagResourceItem }
	NextToken    string
}
