package gateway

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// maxVersions is how many versions a key can have.
const maxVersions = 50

// createVersion makes a key pair and records it, together with what also
// changes. also is tried first, for a dry run and against what it refuses, and once more
// before the token is asked. The order is what makes it safe to be cut off
// at any point: the pair is recorded as an orphan, it is made and tested, and
// only then is there a version, in the transaction that removes the orphan. An
// orphan that is found later is destroyed.
func (c *call) createVersion(ctx context.Context, key store.Key, also func(tx *store.Tx) error) (store.KeyVersion, error) {
	if err := c.records.Try(also); err != nil {
		return store.KeyVersion{}, err
	}
	if err := c.confirm(); err != nil {
		return store.KeyVersion{}, err
	}
	// Not cut short when the client leaves: what the token has begun it ends.
	ctx = context.WithoutCancel(ctx)
	making, cancel := context.WithTimeout(ctx, createTimeout(key.KeySpec))
	defer cancel()
	if err := c.server.pairs.enter(making); err != nil {
		return store.KeyVersion{}, err
	}
	defer c.server.pairs.leave()
	id := uuid.New()
	c.entry.KeyId, c.entry.KeyVersionId = key.KeyId, id.String()
	orphan := store.Orphan{KeyVersionId: id.String(), Since: c.now, Key: hsm.Key{ID: id[:], Spec: key.KeySpec}}
	c.server.making.Store(orphan.KeyVersionId, true)
	defer c.server.making.Delete(orphan.KeyVersionId)
	err := c.record(func(tx *store.Tx) error {
		if err := tx.Try(also); err != nil {
			return err
		}
		return tx.Orphans().Put(orphan)
	})
	if err != nil {
		return store.KeyVersion{}, err
	}
	version := store.KeyVersion{KeyId: key.KeyId, KeyVersionId: id.String(), CreationDate: c.now}
	version.Key, err = c.server.Backend.Generate(making, key.KeySpec, id[:])
	if errors.Is(err, hsm.ErrKeySpec) {
		err = fmt.Errorf("%w: %w", kms.ErrUnsupportedOperation.Because("The token of this instance makes no %s keys.", key.KeySpec), err)
	}
	if err == nil {
		err = c.write(func(tx *store.Tx) error {
			return errors.Join(also(tx), tx.Versions().Put(version), tx.Orphans().Delete(orphan.KeyVersionId))
		})
	}
	if errors.Is(err, store.ErrUncertain) {
		return store.KeyVersion{}, err // the version may be recorded: its key pair must not be destroyed
	}
	if err != nil {
		orphan.Key.Sealed = version.Key.Sealed
		return store.KeyVersion{}, errors.Join(err, c.server.destroyOrphan(ctx, orphan))
	}
	return version, nil
}

// destroyOrphan destroys a key pair that belongs to no version, then the record
// of it. If that fails the record stays, and it is tried again. The caller is
// inside s.pairs.
func (s *Server) destroyOrphan(ctx context.Context, o store.Orphan) error {
	ctx, cancel := context.WithTimeout(ctx, destroyTimeout)
	defer cancel()
	if err := s.Backend.Destroy(ctx, o.Key); err != nil {
		return err
	}
	return s.Store.Update(func(tx *store.Tx) error { return tx.Orphans().Delete(o.KeyVersionId) })
}

func newKeyVersionItem(v store.KeyVersion) kms.KeyVersionItem {
	return kms.KeyVersionItem{CreationDate: kms.FormatTime(v.CreationDate), KeyId: v.KeyId, KeyVersionId: v.KeyVersionId}
}

// createKeyVersion adds a version to a key. The older ones stay usable.
func createKeyVersion(ctx context.Context, c *call, req *kms.CreateKeyVersionRequest) (*kms.KeyVersionResponse, error) {
	key, err := c.key(req.KeyId)
	if err != nil {
		return nil, err
	}
	if err := usable(key); err != nil {
		return nil, err
	}
	// What was found usable may be disabled or deleted while the token is at work, and
	// others may be quicker to make a version.
	allowed := func(tx *store.Tx) error {
		now, err := tx.Keys().Get(key.KeyId)
		if errors.Is(err, store.ErrNotFound) {
			return kms.ErrKeyNotFound
		}
		return errors.Join(err, usable(now), c.mayHaveVersion(tx.Records, key.KeyId))
	}
	version, err := c.createVersion(ctx, key, allowed)
	if err != nil {
		return nil, err
	}
	return &kms.KeyVersionResponse{KeyVersion: newKeyVersionItem(version)}, nil
}

// mayHaveVersion holds a key to the limits of one more version.
func (c *call) mayHaveVersion(records *store.Records, keyId string) error {
	versions := records.VersionsOf(keyId)
	if len(versions) >= maxVersions {
		return kms.ErrLimitExceeded.Because("The key has %d versions.", maxVersions)
	}
	every := c.server.MinVersionInterval
	if len(versions) > 0 && c.now.Before(versions[len(versions)-1].CreationDate.Add(every)) {
		return kms.ErrRejectedUnsupported.Because("A key can have a new version every %v.", every)
	}
	return nil
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
	page, err := kms.NewPage(req.PageNumber, req.PageSize)
	if err != nil {
		return nil, err
	}
	key, err := c.key(req.KeyId)
	if err != nil {
		return nil, err
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	all := c.records.VersionsOf(key.KeyId)
	resp := &kms.ListKeyVersionsResponse{PageInfo: page}
	resp.TotalCount = len(all)
	resp.KeyVersions.KeyVersion = []kms.KeyVersionItem{}
	for _, v := range kms.Cut(all, page) {
		resp.KeyVersions.KeyVersion = append(resp.KeyVersions.KeyVersion, newKeyVersionItem(v))
	}
	return resp, nil
}
