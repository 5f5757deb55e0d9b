package gateway

import (
	"cmp"
	"context"
	"strings"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/store"
)

func createAlias(_ context.Context, c *call, req *kms.CreateAliasRequest) (*kms.EmptyResponse, error) {
	if err := kms.CheckAliasName(req.AliasName); err != nil {
		return nil, err
	}
	if err := c.authorize(c.server.arns.Alias(req.AliasName)); err != nil {
		return nil, err
	}
	key, err := c.key(req.KeyId)
	if err != nil {
		return nil, err
	}
	c.entry.Alias = req.AliasName
	return emptyResponse(c.update(func(tx *store.Tx) error { return putAlias(c, tx, key, req.AliasName) }))
}

// putAlias adds an alias of a key.
func putAlias(c *call, tx *store.Tx, key permitted, aliasName string) error {
	if err := checkNewAlias(c, tx.Records, key, aliasName); err != nil {
		return err
	}
	return tx.Aliases().Create(store.Alias{AliasName: aliasName, KeyId: key.KeyId, CreationDate: c.now})
}

// checkNewAlias refuses an alias if its key is scheduled for deletion, if its name is
// taken, or if there are MaxAliases already.
func checkNewAlias(c *call, records *store.Records, permitted permitted, aliasName string) error {
	key, err := currentKey(records, permitted)
	switch {
	case err != nil:
		return err
	case key.KeyState == store.PendingDeletion:
		return kms.ErrStateModifiedFailed
	case records.Aliases().Has(aliasName):
		return kms.ErrAliasExists
	case records.Aliases().Len() >= c.server.config.MaxAliases:
		return kms.ErrLimitExceeded.Because("There are %d aliases.", c.server.config.MaxAliases)
	}
	return checkAliasCount(records, key.KeyId)
}

// maxAliasesOfKey is how many aliases a key can have. Its deletion deletes all of them in one change.
const maxAliasesOfKey = 10_000

// checkAliasCount refuses another alias of a key that has maxAliasesOfKey.
func checkAliasCount(records *store.Records, keyId string) error {
	if len(records.AliasesOf(keyId)) >= maxAliasesOfKey {
		return kms.ErrLimitExceeded.Because("The key has %d aliases.", maxAliasesOfKey)
	}
	return nil
}

func deleteAlias(_ context.Context, c *call, req *kms.DeleteAliasRequest) (*kms.EmptyResponse, error) {
	if !strings.HasPrefix(req.AliasName, kms.AliasPrefix) || len(req.AliasName) > maxKeyName {
		return nil, kms.InvalidParameter("AliasName", "it must begin with %s and have at most %d characters",
			kms.AliasPrefix, kms.MaxAliasName)
	}
	if err := c.authorize(c.server.arns.Alias(req.AliasName)); err != nil {
		return nil, err
	}
	key, err := c.key(req.AliasName) // the caller needs the permission on the key, too
	if err != nil {
		return nil, err
	}
	return emptyResponse(c.update(func(tx *store.Tx) error {
		if _, err := c.currentAlias(tx.Records, req.AliasName, key); err != nil {
			return err
		}
		return tx.Aliases().Delete(req.AliasName)
	}))
}

// updateAlias points an alias to another key. The caller needs the permission on the
// alias, on its present key and on the new key.
func updateAlias(_ context.Context, c *call, req *kms.UpdateAliasRequest) (*kms.EmptyResponse, error) {
	if err := kms.CheckAliasName(req.AliasName); err != nil {
		return nil, err
	}
	if err := c.authorize(c.server.arns.Alias(req.AliasName)); err != nil {
		return nil, err
	}
	target, err := c.key(req.KeyId)
	if err != nil {
		return nil, err
	}
	old, err := c.key(req.AliasName)
	if err != nil {
		return nil, err
	}
	c.entry.KeyId = target.KeyId
	return emptyResponse(c.update(func(tx *store.Tx) error {
		alias, err := c.currentAlias(tx.Records, req.AliasName, old)
		if err != nil {
			return err
		}
		key, err := currentKey(tx.Records, target)
		if err != nil {
			return err
		}
		if err := cmp.Or(checkAliasTarget(key), checkAliasCount(tx.Records, key.KeyId)); err != nil {
			return err
		}
		alias.KeyId = target.KeyId
		return tx.Aliases().Put(alias)
	}))
}

// checkAliasTarget refuses a key that is scheduled for deletion.
func checkAliasTarget(k store.Key) error {
	if k.KeyState == store.PendingDeletion {
		return kms.ErrKeyPendingDeletion
	}
	return nil
}

func listAliasesByKeyId(
	_ context.Context, c *call, req *kms.ListAliasesByKeyIdRequest,
) (*kms.ListAliasesResponse, error) {
	page := kms.NewPage(req.PageNumber, req.PageSize, kms.DefaultPageSize)
	key, err := c.key(req.KeyId)
	if err != nil {
		return nil, err
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	all := c.records.AliasesOf(key.KeyId)
	resp := &kms.ListAliasesResponse{PageInfo: page}
	resp.TotalCount = len(all)
	resp.Aliases.Alias = c.server.aliasItems(kms.Cut(all, page))
	return resp, nil
}

func listAliases(_ context.Context, c *call, req *kms.ListAliasesRequest) (*kms.ListAliasesResponse, error) {
	page := kms.NewPage(req.PageNumber, req.PageSize, kms.DefaultPageSize)
	if err := c.authorizeOperation(); err != nil {
		return nil, err
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	resp := &kms.ListAliasesResponse{PageInfo: page}
	resp.TotalCount = c.records.Aliases().Len()
	resp.Aliases.Alias = c.server.aliasItems(c.records.Aliases().Page(page.Skip(), page.PageSize))
	return resp, nil
}

// aliasItems returns the aliases as items of an answer. An empty list is [], not null.
func (s *Server) aliasItems(aliases []store.Alias) []kms.AliasItem {
	items := []kms.AliasItem{}
	for _, a := range aliases {
		items = append(items, kms.AliasItem{AliasArn: s.arns.Alias(a.AliasName), AliasName: a.AliasName, KeyId: a.KeyId})
	}
	return items
}
