package gateway

import (
	"cmp"
	"context"
	"errors"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/store"
)

// maxVersions is the most versions that a key can have.
const maxVersions = 50

// createVersion makes a version of a key, in one transaction with change. It first tries
// change, which may refuse the version, and confirms.
func createVersion(
	ctx context.Context, c *call, key permitted, change func(tx *store.Tx) error,
) (store.KeyVersion, error) {
	if err := c.prepare(change); err != nil {
		return store.KeyVersion{}, err
	}
	version := store.KeyVersion{KeyId: key.KeyId, KeyVersionId: cmp.Or(presetOf(ctx).KeyVersionId, uuid.NewString()), CreationDate: c.now}
	c.entry.KeyId, c.entry.KeyVersionId = version.KeyId, version.KeyVersionId
	if name := c.door.name(); name == kms.Admin || name == kms.Local {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.server.config.GenerationTimeout)
		defer cancel()
	}
	return c.server.pairs.Create(ctx, version, key.KeySpec, recorder{c}, change)
}

// A recorder writes records on behalf of the call whose key pair is being made.
type recorder struct{ c *call }

func (r recorder) Record(f func(tx *store.Tx) error) error { return r.c.record(f) }
func (r recorder) Write(f func(tx *store.Tx) error) error  { return r.c.write(f) }

func newKeyVersionItem(v store.KeyVersion) kms.KeyVersionItem {
	return kms.KeyVersionItem{CreationDate: kms.FormatTime(v.CreationDate), KeyId: v.KeyId, KeyVersionId: v.KeyVersionId}
}

// createKeyVersion adds a version to a key. The older versions stay usable.
func createKeyVersion(ctx context.Context, c *call, req *kms.CreateKeyVersionRequest) (*kms.KeyVersionResponse, error) {
	key, err := c.key(req.KeyId)
	if err != nil {
		return nil, err
	}
	if err := checkUsable(key.Key); err != nil {
		return nil, err
	}
	// While the token makes the key pair, another call may disable or delete the key, or add
	// a version to it. The transaction therefore checks again.
	check := func(tx *store.Tx) error {
		k, err := currentKey(tx.Records, key)
		if err != nil {
			return err
		}
		return errors.Join(checkUsable(k), checkNewVersion(c, tx.Records, key))
	}
	version, err := createVersion(ctx, c, key, check)
	if err != nil {
		return nil, err
	}
	return &kms.KeyVersionResponse{KeyVersion: newKeyVersionItem(version)}, nil
}

func describeKeyVersion(
	_ context.Context, c *call, req *kms.DescribeKeyVersionRequest,
) (*kms.KeyVersionResponse, error) {
	key, err := c.key(req.KeyId)
	if err != nil {
		return nil, err
	}
	version, err := c.version(key, req.KeyVersionId)
	if err != nil {
		return nil, err
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	return &kms.KeyVersionResponse{KeyVersion: newKeyVersionItem(version)}, nil
}

func listKeyVersions(
	_ context.Context, c *call, req *kms.ListKeyVersionsRequest,
) (*kms.ListKeyVersionsResponse, error) {
	page := kms.NewPage(req.PageNumber, req.PageSize, kms.DefaultPageSize)
	key, err := c.key(req.KeyId)
	if err != nil {
		return nil, err
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	all := c.versions(key)
	resp := &kms.ListKeyVersionsResponse{PageInfo: page}
	resp.TotalCount = len(all)
	resp.KeyVersions.KeyVersion = []kms.KeyVersionItem{}
	for _, v := range kms.Cut(all, page) {
		resp.KeyVersions.KeyVersion = append(resp.KeyVersions.KeyVersion, newKeyVersionItem(v))
	}
	return resp, nil
}

// listKeyVersionUses returns when each version of a key last signed.
func listKeyVersionUses(
	_ context.Context, c *call, req *kms.ListKeyVersionUsesRequest,
) (*kms.ListKeyVersionUsesResponse, error) {
	key, err := c.key(req.KeyId)
	if err != nil {
		return nil, err
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	resp := new(kms.ListKeyVersionUsesResponse)
	resp.KeyVersions.KeyVersion = []kms.KeyVersionUse{}
	for _, v := range c.versions(key) {
		use := kms.KeyVersionUse{KeyVersionId: v.KeyVersionId, LastUsedDate: kms.FormatTime(c.server.pairs.LastUsed(v))}
		resp.KeyVersions.KeyVersion = append(resp.KeyVersions.KeyVersion, use)
	}
	return resp, nil
}
