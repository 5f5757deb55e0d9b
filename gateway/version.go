package gateway

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/store"
)

// maxVersions is how many versions a key can have.
const maxVersions = 50

// createVersion makes a version of a key, together with what also changes. also is tried
// first, for a dry run and against what it refuses.
func createVersion(ctx context.Context, c *call, key permitted, also func(tx *store.Tx) error) (store.KeyVersion, error) {
	if err := c.prepare(also); err != nil {
		return store.KeyVersion{}, err
	}
	version := store.KeyVersion{KeyId: key.KeyId, KeyVersionId: uuid.NewString(), CreationDate: c.now}
	c.entry.KeyId, c.entry.KeyVersionId = version.KeyId, version.KeyVersionId
	return c.server.pairs.Create(ctx, version, key.KeySpec, recorder{c}, also)
}

// A recorder writes the records of a call whose key pair is being made.
type recorder struct{ c *call }

func (r recorder) Record(f func(tx *store.Tx) error) error { return r.c.record(f) }
func (r recorder) Write(f func(tx *store.Tx) error) error  { return r.c.write(f) }

func newKeyVersionItem(v store.KeyVersion) kms.KeyVersionItem {
	return kms.KeyVersionItem{CreationDate: kms.FormatTime(v.CreationDate), KeyId: v.KeyId, KeyVersionId: v.KeyVersionId}
}

// createKeyVersion adds a version to a key. The older ones stay usable.
func createKeyVersion(ctx context.Context, c *call, req *kms.CreateKeyVersionRequest) (*kms.KeyVersionResponse, error) {
	key, err := c.key(req.KeyId)
	if err != nil {
		return nil, err
	}
	if err := usable(key.Key); err != nil {
		return nil, err
	}
	// What was found usable may be disabled or deleted while the token is at work, and
	// others may be quicker to make a version.
	allowed := func(tx *store.Tx) error {
		now, err := current(tx.Records, key)
		if err != nil {
			return err
		}
		return errors.Join(usable(now), mayHaveVersion(c, tx.Records, key))
	}
	version, err := createVersion(ctx, c, key, allowed)
	if err != nil {
		return nil, err
	}
	return &kms.KeyVersionResponse{KeyVersion: newKeyVersionItem(version)}, nil
}

func describeKeyVersion(_ context.Context, c *call, req *kms.DescribeKeyVersionRequest) (*kms.KeyVersionResponse, error) {
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

func listKeyVersions(_ context.Context, c *call, req *kms.ListKeyVersionsRequest) (*kms.ListKeyVersionsResponse, error) {
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
