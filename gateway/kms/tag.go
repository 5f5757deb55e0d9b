package kms

// TagResourceRequest holds the parameters of TagResource.
type TagResourceRequest struct {
	KeyId         string
	SecretName    string
	CertificateId string
	Tags          string `kms:"required"`
}

// UntagResourceRequest holds the parameters of UntagResource.
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

// ListResourceTagsResponse is the answer to ListResourceTags.
type ListResourceTagsResponse struct {
	Result
	Tags struct{ Tag []ResourceTag }
}

// A TagItem is a member of the list parameter Tag.
type TagItem struct{ Key, Value string }

// TagResourcesRequest holds the parameters of TagResources.
type TagResourcesRequest struct {
	RegionId     string    `kms:"required"`
	ResourceType string    `kms:"required"`
	ResourceId   []string  `kms:"required"`
	Tag          []TagItem `kms:"required"`
}

// UntagResourcesRequest holds the parameters of UntagResources.
type UntagResourcesRequest struct {
	RegionId     string   `kms:"required"`
	ResourceType string   `kms:"required"`
	ResourceId   []string `kms:"required"`
	TagKey       []string
	All          *bool
}

// ListTagResourcesRequest holds the parameters of ListTagResources.
type ListTagResourcesRequest struct {
	RegionId     string `kms:"required"`
	ResourceType string `kms:"required"`
	ResourceId   []string
	Tag          []TagItem
	NextToken    string
}

// A TagResourceItem is a tag of a resource in the answer to ListTagResources.
type TagResourceItem struct {
	ResourceId   string
	ResourceType string
	TagKey       string
	TagValue     string
}

// ListTagResourcesResponse is the answer to ListTagResources.
type ListTagResourcesResponse struct {
	Result
	TagResources struct{ TagResource []TagResourceItem }
	NextToken    string
}
