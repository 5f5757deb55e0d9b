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
	pageOfTags   = 200
	resourceKey  = "key"
)

// parseTags reads a JSON list of {"TagKey", "TagValue"}.
func parseTags(s string) (map[string]string, error) {
	if s == "" {
		return nil, nil
	}
	var list []struct{ TagKey, TagValue string }
	if err := json.Unmarshal([]byte(s), &list); err != nil {
		return nil, kms.InvalidParameter("Tags", `it has to be JSON: [{"TagKey":"…","TagValue":"…"}]`)
	}
	tags := make(map[string]string, len(list))
	for _, t := range list {
		if err := addTag(tags, "Tags", t.TagKey, t.TagValue); err != nil {
			return nil, err
		}
	}
	if len(tags) > maxTags {
		return nil, kms.InvalidParameter("Tags", "a key has at most %d tags", maxTags)
	}
	return tags, nil
}

func addTag(tags map[string]string, parameter, key, value string) error {
	if key == "" || utf8.RuneCountInString(key) > maxTagKey || utf8.RuneCountInString(value) > maxTagValue || !kms.IsText(key+value) {
		return kms.InvalidParameter(parameter, "a tag's key has 1 to %d characters, its value up to %d", maxTagKey, maxTagValue)
	}
	if strings.HasPrefix(key, "aliyun") || strings.HasPrefix(key, "acs:") {
		return kms.InvalidParameter(parameter, "tags whose keys begin with aliyun or acs: are reserved")
	}
	if _, twice := tags[key]; twice {
		return kms.InvalidParameter(parameter, "the tag %q is there twice", key)
	}
	tags[key] = value
	return nil
}

// setTags gives a key more tags. Its map is not changed: others may read it.
func setTags(k *store.Key, tags map[string]string) error {
	merged := maps.Clone(k.Tags)
	if merged == nil {
		merged = make(map[string]string)
	}
	maps.Copy(merged, tags)
	if len(merged) > maxTags {
		return kms.ErrLimitExceeded.Because("A key has at most %d tags.", maxTags)
	}
	k.Tags = merged
	return nil
}

func dropTags(k *store.Key, tagKeys []string) error {
	left := maps.Clone(k.Tags)
	for _, key := range tagKeys {
		delete(left, key)
	}
	k.Tags = left
	return nil
}

// notKeys are the parameters by which other resources are tagged.
type notKeys struct{ SecretName, CertificateId string }

func (n notKeys) check() error {
	if n.SecretName != "" || n.CertificateId != "" {
		return kms.ErrUnsupportedOperation.Because("There are no secrets and no certificates here: use the parameter \"KeyId\".")
	}
	return nil
}

func tagResource(_ context.Context, c *call, req *kms.TagResourceRequest) (*kms.EmptyResponse, error) {
	if err := (notKeys{req.SecretName, req.CertificateId}).check(); err != nil {
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
		return nil, kms.InvalidParameter("Tags", "there is no tag in it")
	}
	return done(c.updateKey(req.KeyId, func(k *store.Key) error { return setTags(k, tags) }))
}

func untagResource(_ context.Context, c *call, req *kms.UntagResourceRequest) (*kms.EmptyResponse, error) {
	if err := (notKeys{req.SecretName, req.CertificateId}).check(); err != nil {
		return nil, err
	}
	if req.KeyId == "" {
		return nil, kms.MissingParameter("KeyId")
	}
	var tagKeys []string
	if err := json.Unmarshal([]byte(req.TagKeys), &tagKeys); err != nil || len(tagKeys) == 0 {
		return nil, kms.InvalidParameter("TagKeys", `it has to be JSON: ["…","…"]`)
	}
	return done(c.updateKey(req.KeyId, func(k *store.Key) error { return dropTags(k, tagKeys) }))
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
		return nil, kms.InvalidParameter("Tag", "a key has at most %d tags", maxTags)
	}
	return done(updateResources(c, req.RegionId, req.ResourceType, req.ResourceId,
		func(k *store.Key) error { return setTags(k, tags) }))
}

func untagResources(_ context.Context, c *call, req *kms.UntagResourcesRequest) (*kms.EmptyResponse, error) {
	all := req.All != nil && *req.All
	if len(req.TagKey) == 0 && !all {
		return nil, kms.MissingParameter("TagKey")
	}
	return done(updateResources(c, req.RegionId, req.ResourceType, req.ResourceId, func(k *store.Key) error {
		if len(req.TagKey) == 0 { // TagKey wins over All, as KMS has it
			k.Tags = nil
			return nil
		}
		return dropTags(k, req.TagKey)
	}))
}

// checkResources refuses what is not a list of this instance's keys.
func checkResources(c *call, regionId, resourceType string, ids []string) error {
	switch {
	case regionId != c.server.instance.RegionId:
		return kms.InvalidParameter("RegionId", "this instance is in %s", c.server.instance.RegionId)
	case resourceType != resourceKey:
		return kms.InvalidParameter("ResourceType", "%q is not %q, the only type here", kms.Clip(resourceType), resourceKey)
	case len(ids) > maxResources:
		return kms.InvalidParameter("ResourceId", "there are %d, more than %d", len(ids), maxResources)
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
	c.entry.KeyId = strings.Join(keyIds, ",") // ours, and not too many
	return c.updateKeys(keys, change)
}

// listTagResources lists the tags of the keys that are named, or of all keys
// that have the tags that are named. NextToken is the KeyId to go on behind.
func listTagResources(_ context.Context, c *call, req *kms.ListTagResourcesRequest) (*kms.ListTagResourcesResponse, error) {
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
		if err := c.authorizeKeyless(); err != nil {
			return nil, err
		}
		keys = c.keysSeen(func(k store.Key) bool { return hasTags(k, req.Tag) })
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
			resp.TagResources.TagResource = append(resp.TagResources.TagResource, kms.TagResourceItem{ResourceId: k.KeyId, ResourceType: resourceKey, TagKey: tagKey, TagValue: k.Tags[tagKey]})
		}
		if len(resp.TagResources.TagResource) >= pageOfTags && i < len(keys)-1 {
			resp.NextToken = k.KeyId
			break
		}
	}
	return resp, nil
}

// hasTags reports whether a key has all tags; one without a value stands for any
// value.
func hasTags(k store.Key, tags []kms.TagItem) bool {
	for _, t := range tags {
		value, ok := k.Tags[t.Key]
		if !ok || t.Value != "" && t.Value != value {
			return false
		}
	}
	return true
}
