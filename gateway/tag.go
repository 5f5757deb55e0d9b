package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

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
		return nil, invalidParameter("Tags", `it has to be JSON: [{"TagKey":"…","TagValue":"…"}]`)
	}
	tags := make(map[string]string, len(list))
	for _, t := range list {
		if err := addTag(tags, "Tags", t.TagKey, t.TagValue); err != nil {
			return nil, err
		}
	}
	if len(tags) > maxTags {
		return nil, invalidParameter("Tags", "a key has at most %d tags", maxTags)
	}
	return tags, nil
}

func addTag(tags map[string]string, parameter, key, value string) error {
	if key == "" || utf8.RuneCountInString(key) > maxTagKey || utf8.RuneCountInString(value) > maxTagValue || !isText(key+value) {
		return invalidParameter(parameter, "a tag's key has 1 to %d characters, its value up to %d", maxTagKey, maxTagValue)
	}
	if strings.HasPrefix(key, "aliyun") || strings.HasPrefix(key, "acs:") {
		return invalidParameter(parameter, "tags whose keys begin with aliyun or acs: are reserved")
	}
	if _, twice := tags[key]; twice {
		return invalidParameter(parameter, "the tag %q is there twice", key)
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
		return errLimitExceeded.because("A key has at most %d tags.", maxTags)
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
		return errUnsupportedOperation.because("There are no secrets and no certificates here: use the parameter \"KeyId\".")
	}
	return nil
}

type tagResourceRequest struct {
	KeyId         string
	SecretName    string
	CertificateId string
	Tags          string `kms:"required"`
}

func tagResource(_ context.Context, c *call, req *tagResourceRequest) (*emptyResponse, error) {
	if err := (notKeys{req.SecretName, req.CertificateId}).check(); err != nil {
		return nil, err
	}
	if req.KeyId == "" {
		return nil, missingParameter("KeyId")
	}
	tags, err := parseTags(req.Tags)
	if err != nil {
		return nil, err
	}
	if len(tags) == 0 {
		return nil, invalidParameter("Tags", "there is no tag in it")
	}
	return done(c.updateKey(req.KeyId, func(k *store.Key) error { return setTags(k, tags) }))
}

type untagResourceRequest struct {
	KeyId         string
	SecretName    string
	CertificateId string
	TagKeys       string `kms:"required"`
}

func untagResource(_ context.Context, c *call, req *untagResourceRequest) (*emptyResponse, error) {
	if err := (notKeys{req.SecretName, req.CertificateId}).check(); err != nil {
		return nil, err
	}
	if req.KeyId == "" {
		return nil, missingParameter("KeyId")
	}
	var tagKeys []string
	if err := json.Unmarshal([]byte(req.TagKeys), &tagKeys); err != nil || len(tagKeys) == 0 {
		return nil, invalidParameter("TagKeys", `it has to be JSON: ["…","…"]`)
	}
	return done(c.updateKey(req.KeyId, func(k *store.Key) error { return dropTags(k, tagKeys) }))
}

type resourceTag struct {
	KeyId    string
	TagKey   string
	TagValue string
}

type listResourceTagsResponse struct {
	result
	Tags struct{ Tag []resourceTag }
}

func listResourceTags(_ context.Context, c *call, req *keyRequest) (*listResourceTagsResponse, error) {
	key, err := c.key(req.KeyId)
	if err != nil {
		return nil, err
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	resp := new(listResourceTagsResponse)
	resp.Tags.Tag = []resourceTag{}
	for _, tagKey := range slices.Sorted(maps.Keys(key.Tags)) {
		resp.Tags.Tag = append(resp.Tags.Tag, resourceTag{key.KeyId, tagKey, key.Tags[tagKey]})
	}
	return resp, nil
}

// A tagItem is a member of the list Tag.
type tagItem struct{ Key, Value string }

type tagResourcesRequest struct {
	RegionId     string    `kms:"required"`
	ResourceType string    `kms:"required"`
	ResourceId   []string  `kms:"required"`
	Tag          []tagItem `kms:"required"`
}

func tagResources(_ context.Context, c *call, req *tagResourcesRequest) (*emptyResponse, error) {
	tags := make(map[string]string)
	for _, t := range req.Tag {
		if err := addTag(tags, "Tag", t.Key, t.Value); err != nil {
			return nil, err
		}
	}
	if len(tags) > maxTags {
		return nil, invalidParameter("Tag", "a key has at most %d tags", maxTags)
	}
	return done(c.updateResources(req.RegionId, req.ResourceType, req.ResourceId,
		func(k *store.Key) error { return setTags(k, tags) }))
}

type untagResourcesRequest struct {
	RegionId     string   `kms:"required"`
	ResourceType string   `kms:"required"`
	ResourceId   []string `kms:"required"`
	TagKey       []string
	All          *bool
}

func untagResources(_ context.Context, c *call, req *untagResourcesRequest) (*emptyResponse, error) {
	all := req.All != nil && *req.All
	if len(req.TagKey) == 0 && !all {
		return nil, missingParameter("TagKey")
	}
	return done(c.updateResources(req.RegionId, req.ResourceType, req.ResourceId, func(k *store.Key) error {
		if len(req.TagKey) == 0 { // TagKey wins over All, as KMS has it
			k.Tags = nil
			return nil
		}
		return dropTags(k, req.TagKey)
	}))
}

// checkResources refuses what is not a list of this instance's keys.
func (c *call) checkResources(regionId, resourceType string, ids []string) error {
	switch {
	case regionId != c.server.instance.RegionId:
		return invalidParameter("RegionId", "this instance is in %s", c.server.instance.RegionId)
	case resourceType != resourceKey:
		return invalidParameter("ResourceType", "%q is not %q, the only type here", clip(resourceType), resourceKey)
	case len(ids) > maxResources:
		return invalidParameter("ResourceId", "there are %d, more than %d", len(ids), maxResources)
	}
	return nil
}

// updateResources changes several keys in one transaction: all or none.
func (c *call) updateResources(regionId, resourceType string, ids []string, change func(k *store.Key) error) error {
	if err := c.checkResources(regionId, resourceType, ids); err != nil {
		return err
	}
	var keyIds []string
	for _, id := range ids {
		key, err := c.key(id)
		if err != nil {
			return err
		}
		keyIds = append(keyIds, key.KeyId)
	}
	c.entry.KeyId = strings.Join(keyIds, ",") // ours, and not too many
	return c.update(func(tx *store.Tx) error {
		for _, keyId := range keyIds {
			key, err := tx.Keys().Get(keyId)
			if err != nil {
				return errKeyNotFound // deleted meanwhile
			}
			if err := change(&key); err != nil {
				return err
			}
			if err := tx.Keys().Put(key); err != nil {
				return err
			}
		}
		return nil
	})
}

type listTagResourcesRequest struct {
	RegionId     string `kms:"required"`
	ResourceType string `kms:"required"`
	ResourceId   []string
	Tag          []tagItem
	NextToken    string
}

type tagResourceItem struct {
	ResourceId   string
	ResourceType string
	TagKey       string
	TagValue     string
}

type listTagResourcesResponse struct {
	result
	TagResources struct{ TagResource []tagResourceItem }
	NextToken    string
}

// listTagResources lists the tags of the keys that are named, or of all keys
// that have the tags that are named. NextToken is the KeyId to go on behind.
func listTagResources(_ context.Context, c *call, req *listTagResourcesRequest) (*listTagResourcesResponse, error) {
	if err := c.checkResources(req.RegionId, req.ResourceType, req.ResourceId); err != nil {
		return nil, err
	}
	if len(req.ResourceId) == 0 && len(req.Tag) == 0 {
		return nil, missingParameter("ResourceId")
	}
	var keys []store.Key
	for _, id := range req.ResourceId {
		key, err := c.key(id)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(keys, func(k store.Key) bool { return k.KeyId == key.KeyId }) {
			keys = append(keys, key)
		}
	}
	if len(req.ResourceId) == 0 {
		if err := c.authorizeKeyless(); err != nil {
			return nil, err
		}
		keys = c.keysTagged(req.Tag)
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	slices.SortFunc(keys, func(a, b store.Key) int { return cmp.Compare(a.KeyId, b.KeyId) })
	resp := new(listTagResourcesResponse)
	resp.TagResources.TagResource = []tagResourceItem{}
	for i, k := range keys {
		if k.KeyId <= req.NextToken || !hasTags(k, req.Tag) {
			continue
		}
		for _, tagKey := range slices.Sorted(maps.Keys(k.Tags)) {
			resp.TagResources.TagResource = append(resp.TagResources.TagResource, tagResourceItem{k.KeyId, resourceKey, tagKey, k.Tags[tagKey]})
		}
		if len(resp.TagResources.TagResource) >= pageOfTags && i < len(keys)-1 {
			resp.NextToken = k.KeyId
			break
		}
	}
	return resp, nil
}

// keysTagged gives the keys with some tags that the caller may see.
func (c *call) keysTagged(tags []tagItem) (keys []store.Key) {
	for k := range c.records.Keys().All() {
		if hasTags(k, tags) && c.authorizeKey(k.KeyId, &k) == nil {
			keys = append(keys, k)
		}
	}
	return keys
}

// hasTags reports whether a key has all tags; one without a value stands for any
// value.
func hasTags(k store.Key, tags []tagItem) bool {
	for _, t := range tags {
		value, ok := k.Tags[t.Key]
		if !ok || t.Value != "" && t.Value != value {
			return false
		}
	}
	return true
}
