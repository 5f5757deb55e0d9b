package gateway

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/keypair"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/store"
)

// authorize asks the caller's policies for the call's action on a resource that
// is no key.
func (c *call) authorize(resource string) error { return c.permit(resource, nil) }

// authorizeKeyless asks for the action of the call, which is of no one resource.
func (c *call) authorizeKeyless() error {
	return c.authorize(c.server.arns.Resource(c.operation.Resource))
}

// authorizeKey asks for the action on a key, of which there may be none.
func (c *call) authorizeKey(keyId string, key *store.Key) error {
	return c.permit(c.server.arns.Key(keyId), key)
}

func (c *call) permit(resource string, key *store.Key) error {
	d, err := c.server.callers.Decide(c.records, c.principal, identity.Question{Action: c.action, Resource: resource, Key: key, Values: c.conditions()})
	if err != nil {
		return err
	}
	if !d.Allowed {
		return fmt.Errorf("%w (%s on %s: %s)", kms.ErrNoPermission, c.action, kms.Clip(resource), d.Reason)
	}
	return nil
}

// conditions gives the values of the condition keys that are of the request.
func (c *call) conditions() map[string]string {
	values := map[string]string{
		"acs:CurrentTime":     c.now.Format(time.RFC3339),
		"acs:SecureTransport": strconv.FormatBool(c.door.name().IsRemote()), // plain HTTP does not get here
		"acs:MFAPresent":      "false",                                      // a key is one factor
	}
	if c.door.name().IsRemote() {
		values["acs:SourceIp"] = c.entry.Source
	}
	return values
}

// A permitted key is one that the caller's policies and the key's own allow the operation
// on. Only c.key and what creates a key make one, and without one there is no way to a
// key's versions, to its record as it is now, or to a change of it.
type permitted struct{ store.Key }

// key gives the key that a request names by its id, an alias or an ARN, if the
// caller's policies and the key's allow the action on it. It is the only way to
// a key.
func (c *call) key(name string) (permitted, error) {
	if len(name) > maxKeyName {
		return permitted{}, kms.InvalidParameter("KeyId", "it has more than %d bytes", maxKeyName)
	}
	keyId, err := c.keyId(name)
	if err != nil {
		return permitted{}, err
	}
	c.entry.KeyId = kms.Clip(keyId)
	var key *store.Key
	if k, err := c.records.Keys().Get(keyId); err == nil {
		key = &k
	}
	// Whoever may not use it does not learn whether there is such a key.
	if err := c.authorizeKey(keyId, key); err != nil {
		return permitted{}, err
	}
	if key == nil {
		return permitted{}, kms.ErrKeyNotFound
	}
	c.entry.KeySpec = string(key.KeySpec)
	return permitted{*key}, nil
}

// maxKeyName is more than an ARN of the longest alias has. Policies are matched
// against names in time that grows with them.
const maxKeyName = 2048

// keyId resolves aliases and ARNs.
func (c *call) keyId(name string) (string, error) {
	if strings.HasPrefix(name, "acs:") {
		resource, ours := strings.CutPrefix(name, c.server.arns.Resource(""))
		switch {
		case ours && strings.HasPrefix(resource, "key/"):
			return strings.TrimPrefix(resource, "key/"), nil
		case ours && strings.HasPrefix(resource, aliasPrefix):
			name = resource
		default: // of another region, account or service: as unknown as any other
			return name, nil
		}
	}
	if !strings.HasPrefix(name, aliasPrefix) {
		return name, nil
	}
	alias, err := c.alias(name)
	return alias.KeyId, err
}

// alias gives an alias. That there is none is told only to callers who may do
// what they ask for with every key; to others it must look as if there were a
// key that they may not use.
func (c *call) alias(aliasName string) (store.Alias, error) {
	c.entry.Alias = kms.Clip(aliasName)
	alias, err := c.records.Aliases().Get(aliasName)
	if errors.Is(err, store.ErrNotFound) {
		if err := c.authorizeKey("*", nil); err != nil {
			return store.Alias{}, err
		}
		return store.Alias{}, kms.ErrAliasNotFound
	}
	return alias, err
}

// version returns a version of a permitted key, the oldest if no id is given.
func (c *call) version(key permitted, keyVersionId string) (store.KeyVersion, error) {
	c.entry.KeyVersionId = kms.Clip(keyVersionId)
	version, err := c.records.Version(key.KeyId, keyVersionId)
	if keyVersionId == "" {
		if all := c.versions(key); len(all) > 0 {
			version, err = all[0], nil
		}
	}
	if errors.Is(err, store.ErrNotFound) {
		return store.KeyVersion{}, kms.ErrKeyVersionNotFound
	}
	if err != nil {
		return store.KeyVersion{}, err
	}
	c.entry.KeyVersionId = version.KeyVersionId
	return version, keypair.CheckRecord(version, key.Key)
}

// current returns the record of a permitted key as it is now.
func current(records *store.Records, key permitted) (store.Key, error) {
	k, err := records.Keys().Get(key.KeyId)
	if errors.Is(err, store.ErrNotFound) {
		return k, kms.ErrKeyNotFound // deleted by another call meanwhile
	}
	return k, err
}

// versions returns the versions of a permitted key, the oldest first.
func (c *call) versions(key permitted) []store.KeyVersion { return c.records.VersionsOf(key.KeyId) }

// keys returns a page of the keys that filters select, and the number of all of them, to
// callers who may list all keys.
func (c *call) keys(f filters, p kms.PageInfo) (page []store.Key, total int, err error) {
	if err := c.authorizeKeyless(); err != nil {
		return nil, 0, err
	}
	all := c.records.Keys()
	if len(f) == 0 {
		return all.Page(p.Skip(), p.PageSize), all.Len(), nil
	}
	for k := range all.All() {
		if !f.match(c, k) {
			continue
		}
		if total >= p.Skip() && len(page) < p.PageSize {
			page = append(page, k)
		}
		total++
	}
	return page, total, nil
}

// keysSeen returns the keys that match and on which the caller may do what is asked for.
func (c *call) keysSeen(match func(k store.Key) bool) (keys []store.Key) {
	for k := range c.records.Keys().All() {
		if match(k) && c.authorizeKey(k.KeyId, &k) == nil {
			keys = append(keys, k)
		}
	}
	return keys
}

// anyKey returns a key that others' policies are asked about, nil if there is none. It is
// for local administrators, who see all.
func (c *call) anyKey(name string) (keyId string, key *store.Key, err error) {
	if c.door.name().IsRemote() {
		return "", nil, kms.ErrNoPermission
	}
	if keyId, err = c.keyId(name); err != nil {
		return "", nil, err
	}
	if k, err := c.records.Keys().Get(keyId); err == nil {
		key = &k
	}
	return keyId, key, nil
}

// currentAlias returns an alias as it is now. It asks for the permission on the key of
// the alias again, if that is not the key any more for which it was given.
func (c *call) currentAlias(records *store.Records, aliasName string, authorised permitted) (store.Alias, error) {
	alias, err := records.Aliases().Get(aliasName)
	if errors.Is(err, store.ErrNotFound) {
		return alias, kms.ErrAliasNotFound // deleted by another call meanwhile
	}
	if err != nil || alias.KeyId == authorised.KeyId {
		return alias, err
	}
	key, err := records.Keys().Get(alias.KeyId)
	if err != nil {
		return alias, err
	}
	return alias, c.authorizeKey(alias.KeyId, &key)
}

// namedARN is the ARN of what the call's operation is on, by a name.
func (c *call) namedARN(name string) string { return c.server.namedARN(c.operation.Operation, name) }
