package gateway

import (
	"context"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/store"
)

const (
	aliasPrefix   = "alias/"
	aliasReserved = "alias/acs"
	maxAliasName  = 255 // characters, the prefix included
)

// checkAliasName holds a name to KMS's rules. Any character that can be printed
// is taken.
func checkAliasName(name string) error {
	printable := utf8.ValidString(name) && strings.IndexFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
	switch {
	case !strings.HasPrefix(name, aliasPrefix) || len(name) == len(aliasPrefix):
		return kms.InvalidParameter("AliasName", "it has to begin with %s and go on", aliasPrefix)
	case strings.HasPrefix(name, aliasReserved):
		return kms.InvalidParameter("AliasName", "names that begin with %s are reserved", aliasReserved)
	case utf8.RuneCountInString(name) > maxAliasName:
		return kms.InvalidParameter("AliasName", "it has more than %d characters", maxAliasName)
	case !printable:
		return kms.InvalidParameter("AliasName", "it has a character that cannot be printed")
	}
	return nil
}

func createAlias(_ context.Context, c *call, req *kms.CreateAliasRequest) (*kms.EmptyResponse, error) {
	if err := checkAliasName(req.AliasName); err != nil {
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
	return done(c.update(func(tx *store.Tx) error {
		if err := checkNewAlias(c, tx.Records, key, req.AliasName); err != nil {
			return err
		}
		return tx.Aliases().Create(store.Alias{AliasName: req.AliasName, KeyId: key.KeyId, CreationDate: c.now})
	}))
}

// checkNewAlias refuses an alias of a key that is being deleted, of a name that
// is taken, or one too many.
func checkNewAlias(c *call, records *store.Records, permitted permitted, aliasName string) error {
	key, err := current(records, permitted)
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
	return nil
}

func deleteAlias(_ context.Context, c *call, req *kms.DeleteAliasRequest) (*kms.EmptyResponse, error) {
	if !strings.HasPrefix(req.AliasName, aliasPrefix) || len(req.AliasName) > maxKeyName {
		return nil, kms.InvalidParameter("AliasName", "it has to begin with %s and to have at most %d characters", aliasPrefix, maxAliasName)
	}
	if err := c.authorize(c.server.arns.Alias(req.AliasName)); err != nil {
		return nil, err
	}
	key, err := c.key(req.AliasName) // the permission on the key is needed too
	if err != nil {
		return nil, err
	}
	return done(c.update(func(tx *store.Tx) error {
		if _, err := c.currentAlias(tx.Records, req.AliasName, key); err != nil {
			return err
		}
		return tx.Aliases().Delete(req.AliasName)
	}))
}

// updateAlias points an alias to another key. It takes the right on the alias,
// on the key it points to and on the one it shall point to.
func updateAlias(_ context.Context, c *call, req *kms.UpdateAliasRequest) (*kms.EmptyResponse, error) {
	if err := checkAliasName(req.AliasName); err != nil {
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
	return done(c.update(func(tx *store.Tx) error {
		alias, err := c.currentAlias(tx.Records, req.AliasName, old)
		if err != nil {
			return err
		}
		now, err := current(tx.Records, target)
		if err != nil {
			return err
		}
		if err := mayBeTarget(now); err != nil {
			return err
		}
		alias.KeyId = target.KeyId
		return tx.Aliases().Put(alias)
	}))
}

func mayBeTarget(k store.Key) error {
	if k.KeyState == store.PendingDeletion {
		return kms.ErrKeyPendingDeletion
	}
	return nil
}

func listAliasesByKeyId(_ context.Context, c *call, req *kms.ListAliasesByKeyIdRequest) (*kms.ListAliasesResponse, error) {
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
	if err := c.authorizeKeyless(); err != nil {
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

// aliasItems gives a list that is [] when it is empty, not null.
func (s *Server) aliasItems(aliases []store.Alias) []kms.AliasItem {
	items := []kms.AliasItem{}
	for _, a := range aliases {
		items = append(items, kms.AliasItem{AliasArn: s.arns.Alias(a.AliasName), AliasName: a.AliasName, KeyId: a.KeyId})
	}
	return items
}
