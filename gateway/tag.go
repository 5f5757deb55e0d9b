package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/store"
)

const (
	maxTags      = 20
	maxTagKey    = 128 // characters
	maxTagValue  = 256
	maxResources = 50 // in one call
	tagsPerPage  = 200
	resourceKey  = "key"
)

// parseTags parses a JSON list of {"TagKey", "TagValue"}.
func parseTags(s string) (map[string]string, error) {
	if s == "" {
		return nil, nil
	}
	var list []struct{ TagKey, TagValue string }
	if err := json.Unmarshal([]byte(s), &list); err != nil {
		return nil, kms.InvalidParameter("Tags", `it must be JSON: [{"TagKey":"…","TagValue":"…"}]`)
	}
	tags := make(map[string]string, len(list))
	for _, t := range list {
		if err := addTag(tags, "Tags", t.TagKey, t.TagValue); err != nil {
			return nil, err
		}
	}
	if len(tags) > maxTags {
		return nil, kms.InvalidParameter("Tags", "a key can have at most %d tags", maxTags)
	}
	return tags, nil
}

func addTag(tags map[string]string, parameter, key, value string) error {
	if key == "" || utf8.RuneCountInString(key) > maxTagKey || utf8.RuneCountInString(value) > maxTagValue ||
		!kms.IsText(key+value) {
		return kms.InvalidParameter(parameter, "a tag's key must have 1 to %d characters, its value at most %d",
			maxTagKey, maxTagValue)
	}
	if strings.HasPrefix(key, "aliyun") || strings.HasPrefix(key, "acs:") {
		return kms.InvalidParameter(parameter, "tag keys that begin with aliyun or acs: are reserved")
	}
	if _, exists := tags[key]; exists {
		return kms.InvalidParameter(parameter, "it has the tag %q twice", key)
	}
	tags[key] = value
	return nil
}

// setTags adds tags to a key. It replaces the key's map and does not modify it, because
// other calls may be reading it.
func setTags(k *store.Key, tags map[string]string) error {
	merged := maps.Clone(k.Tags)
	if merged == nil {
		merged = make(map[string]string)
	}
	maps.Copy(merged, tags)
	if len(merged) > maxTags {
		return kms.ErrLimitExceeded.Because("A key can have at most %d tags.", maxTags)
	}
	k.Tags = merged
	return nil
}

// dropTags removes tags from a key. Like setTags, it replaces the key's map.
func dropTags(k *store.Key, tagKeys []string) error {
	remaining := maps.Clone(k.Tags)
	for _, key := range tagKeys {
		delete(remaining, key)
	}
	k.Tags = remaining
	return nil
}

// refuseOtherResources refuses the parameters that name resources other than keys.
func refuseOtherResources(secretName, certificateId string) error {
	if secretName != "" || certificateId != "" {
		return kms.ErrUnsupportedOperation.Because(
			"There are no secrets and no certificates here: use the parameter \"KeyId\".")
	}
	return nil
}

func tagResource(_ context.Context, c *call, req *kms.TagResourceRequest) (*kms.EmptyResponse, error) {
	if err := refuseOtherResources(req.SecretName, req.CertificateId); err != nil {
		return nil, err
	}
	if req.KeyId == "" {
		return nil, kms.MissingParameter("KeyId")
	}
	tags, err := parseTags(req.Tags)
	if err != nil {
		return nil, err
	}
	if len(tags) == 0 {
		return nil, kms.InvalidParameter("Tags", "it has no tag")
	}
	return emptyResponse(c.updateKey(req.KeyId, func(k *store.Key) error { return setTags(k, tags) }))
}

func untagResource(_ context.Context, c *call, req *kms.UntagResourceRequest) (*kms.EmptyResponse, error) {
	if err := refuseOtherResources(req.SecretName, req.CertificateId); err != nil {
		return nil, err
	}
	if req.KeyId == "" {
		return nil, kms.MissingParameter("KeyId")
	}
	var tagKeys []string
	if err := json.Unmarshal([]byte(req.TagKeys), &tagKeys); err != nil || len(tagKeys) == 0 {
		return nil, kms.InvalidParameter("TagKeys", `it must be JSON: ["…","…"]`)
	}
	return emptyResponse(c.updateKey(req.KeyId, func(k *store.Key) error { return dropTags(k, tagKeys) }))
}

func listResourceTags(_ context.Context, c *call, req *kms.KeyRequest) (*kms.ListResourceTagsResponse, error) {
	key, err := c.key(req.KeyId)
	if err != nil {
		return nil, err
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	resp := new(kms.ListResourceTagsResponse)
	resp.Tags.Tag = []kms.ResourceTag{}
	for _, tagKey := range slices.Sorted(maps.Keys(key.Tags)) {
		resp.Tags.Tag = append(resp.Tags.Tag, kms.ResourceTag{KeyId: key.KeyId, TagKey: tagKey, TagValue: key.Tags[tagKey]})
	}
	return resp, nil
}

func tagResources(_ context.Context, c *call, req *kms.TagResourcesRequest) (*kms.EmptyResponse, error) {
	tags := make(map[string]string)
	for _, t := range req.Tag {
		if err := addTag(tags, "Tag", t.Key, t.Value); err != nil {
			return nil, err
		}
	}
	if len(tags) > maxTags {
		return nil, kms.InvalidParameter("Tag", "a key can have at most %d tags", maxTags)
	}
	return emptyResponse(updateResources(c, req.RegionId, req.ResourceType, req.ResourceId,
		func(k *store.Key) error { return setTags(k, tags) }))
}

func untagResources(_ context.Context, c *call, req *kms.UntagResourcesRequest) (*kms.EmptyResponse, error) {
	all := req.All != nil && *req.All
	if len(req.TagKey) == 0 && !all {
		return nil, kms.MissingParameter("TagKey")
	}
	return emptyResponse(updateResources(c, req.RegionId, req.ResourceType, req.ResourceId, func(k *store.Key) error {
		if len(req.TagKey) == 0 { // as in KMS, TagKey overrides All
			k.Tags = nil
			return nil
		}
		return dropTags(k, req.TagKey)
	}))
}

// checkResources refuses resources that are not keys of this instance, and too many of them.
func checkResources(c *call, regionId, resourceType string, ids []string) error {
	switch {
	case regionId != c.server.instance.RegionId:
		return kms.InvalidParameter("RegionId", "this instance is in %s", c.server.instance.RegionId)
	case resourceType != resourceKey:
		return kms.InvalidParameter("ResourceType", "%q is not %q, the only type here", kms.Clip(resourceType), resourceKey)
	case len(ids) > maxResources:
		return kms.InvalidParameter("ResourceId", "there are %d of them, at most %d are allowed", len(ids), maxResources)
	}
	return nil
}

// updateResources changes several keys in one transaction: all or none.
func updateResources(c *call, regionId, resourceType string, ids []string, change func(k *store.Key) error) error {
	if err := checkResources(c, regionId, resourceType, ids); err != nil {
		return err
	}
	var keys []permitted
	var keyIds []string
	for _, id := range ids {
		key, err := c.key(id)
		if err != nil {
			return err
		}
		keys, keyIds = append(keys, key), append(keyIds, key.KeyId)
	}
	c.entry.KeyId = strings.Join(keyIds, ",") // not clipped: they are valid, and at most maxResources
	return c.updateKeys(keys, change)
}

// listTagResources lists the tags of the keys that the request names, or of all keys that
// have the tags that it names. NextToken is the last KeyId of the previous page.
func listTagResources(
	_ context.Context, c *call, req *kms.ListTagResourcesRequest,
) (*kms.ListTagResourcesResponse, error) {
	if err := checkResources(c, req.RegionId, req.ResourceType, req.ResourceId); err != nil {
		return nil, err
	}
	if len(req.ResourceId) == 0 && len(req.Tag) == 0 {
		return nil, kms.MissingParameter("ResourceId")
	}
	var keys []store.Key
	for _, id := range req.ResourceId {
		key, err := c.key(id)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(keys, func(k store.Key) bool { return k.KeyId == key.KeyId }) {
			keys = append(keys, key.Key)
		}
	}
	if len(req.ResourceId) == 0 {
		if err := c.authorizeOperation(); err != nil {
			return nil, err
		}
		keys = c.visibleKeys(func(k store.Key) bool { return hasTags(k, req.Tag) })
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	slices.SortFunc(keys, func(a, b store.Key) int { return cmp.Compare(a.KeyId, b.KeyId) })
	resp := new(kms.ListTagResourcesResponse)
	resp.TagResources.TagResource = []kms.TagResourceItem{}
	for i, k := range keys {
		if k.KeyId <= req.NextToken || !hasTags(k, req.Tag) {
			continue
		}
		for _, tagKey := range slices.Sorted(maps.Keys(k.Tags)) {
			resp.TagResources.TagResource = append(resp.TagResources.TagResource, kms.TagResourceItem{
				ResourceId: k.KeyId, ResourceType: resourceKey, TagKey: tagKey, TagValue: k.Tags[tagKey]})
		}
		if len(resp.TagResources.TagResource) >= tagsPerPage && i < len(keys)-1 {
			resp.NextToken = k.KeyId
			break
		}
	}
	return resp, nil
}

// hasTags reports whether a key has all tags. A tag without a value matches any value.
func hasTags(k store.Key, tags []kms.TagItem) bool {
	for _, t := range tags {
		value, ok := k.Tags[t.Key]
		if !ok || t.Value != "" && t.Value != value {
			return false
		}
	}
	return true
}
