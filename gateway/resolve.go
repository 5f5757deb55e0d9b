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

// authorize asks the caller's policies for the call's action on a resource other than a
// key.
func (c *call) authorize(resource string) error { return c.permit(resource, nil) }

// authorizeOperation asks the caller's policies for an action that does not target a single
// resource. It authorises the action against the resource in the operation's description.
func (c *call) authorizeOperation() error {
	return c.authorize(c.server.arns.Resource(c.operation.Resource))
}

// authorizeKey asks the caller's policies and the key policy for the call's action on a
// key. key is nil if the key does not exist.
func (c *call) authorizeKey(keyId string, key *store.Key) error {
	return c.permit(c.server.arns.Key(keyId), key)
}

// permit returns nil if the caller may do the call's action on a resource, and otherwise
// Forbidden.NoPermission with the reason, which is for the log.
func (c *call) permit(resource string, key *store.Key) error {
	d, err := c.server.callers.Decide(c.records, c.principal,
		identity.Question{Action: c.action, Resource: resource, Values: requestValues{c}}, key)
	if err != nil {
		return err
	}
	if !d.Allowed {
		return fmt.Errorf("%w (%s on %s: %s)", kms.ErrNoPermission, c.action, kms.Clip(resource), d.Reason())
	}
	return nil
}

// requestValues are the values of the condition keys that depend on a call's request.
type requestValues struct{ *call }

// Value implements policy.Values.
func (c requestValues) Value(key string) (value string, ok bool) {
	remote := c.door.name().IsRemote()
	switch {
	case key == "acs:CurrentTime":
		return c.now.Format(time.RFC3339), true
	case key == "acs:SecureTransport":
		return strconv.FormatBool(remote), true // plain HTTP was refused before
	case key == "acs:MFAPresent":
		return "false", true // a key is a single factor
	case key == "acs:SourceIp" && remote:
		return c.entry.Source, true
	}
	return "", false
}

// A permitted key is a key on which the policies allow the call's operation: the caller's
// policies and the key policy. Only c.key and newPermitted return one. Without one, an
// operation cannot reach a key's versions or its current record, and cannot change it.
type permitted struct{ store.Key }

// key returns the key that a request names by its KeyId, an alias or an ARN, if the caller's
// policies and the key policy allow the action on it. It is the only way to a key.
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
	// A caller who may not use the key does not learn whether it exists.
	if err := c.authorizeKey(keyId, key); err != nil {
		return permitted{}, err
	}
	if key == nil {
		return permitted{}, kms.ErrKeyNotFound
	}
	c.entry.KeySpec = string(key.KeySpec)
	return permitted{*key}, nil
}

// maxKeyName is the most bytes of a name. The ARN of the longest alias has fewer. There is a
// limit because the time to match policies grows with the name.
const maxKeyName = 2048

// keyId returns the KeyId that a KeyId, an alias or an ARN names.
func (c *call) keyId(name string) (string, error) {
	if strings.HasPrefix(name, "acs:") {
		resource, ours := strings.CutPrefix(name, c.server.arns.Resource(""))
		switch {
		case ours && strings.HasPrefix(resource, "key/"):
			return strings.TrimPrefix(resource, "key/"), nil
		case ours && strings.HasPrefix(resource, kms.AliasPrefix):
			name = resource
		default: // an ARN of another region, account or service is like an unknown KeyId
			return name, nil
		}
	}
	if !strings.HasPrefix(name, kms.AliasPrefix) {
		return name, nil
	}
	alias, err := c.alias(name)
	return alias.KeyId, err
}

// alias returns an alias. It reveals that an alias does not exist only to callers who may do
// the action on every key. Other callers receive the same error as for a key that they may
// not use.
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

// version returns a version of a permitted key, or its oldest version if keyVersionId is
// empty.
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
	return version, keypair.CheckRecord(version, key.Key, c.records.AuditKey())
}

// checkStillUsable returns an error if the current records no longer allow the key version that the call used.
func checkStillUsable(c *call, records *store.Records) error {
	version := c.used
	if records == c.records {
		return nil // they allowed it before, and do not change
	}
	key, err := records.Keys().Get(version.KeyId)
	if errors.Is(err, store.ErrNotFound) {
		return kms.ErrKeyNotFound
	}
	if err != nil {
		return err
	}
	if _, err := records.Version(version.KeyId, version.KeyVersionId); errors.Is(err, store.ErrNotFound) {
		return kms.ErrKeyVersionNotFound
	} else if err != nil {
		return err
	}
	return checkUsable(key)
}

// currentKey returns the current record of a permitted key.
func currentKey(records *store.Records, key permitted) (store.Key, error) {
	k, err := records.Keys().Get(key.KeyId)
	if errors.Is(err, store.ErrNotFound) {
		return k, kms.ErrKeyNotFound // another call has just deleted it
	}
	return k, err
}

// versions returns the versions of a permitted key, the oldest first.
func (c *call) versions(key permitted) []store.KeyVersion { return c.records.VersionsOf(key.KeyId) }

// keys returns a page of the keys that f selects, and the number of all keys that f selects.
// The caller must have the permission to list keys.
func (c *call) keys(f filters, p kms.PageInfo) (page []store.Key, total int, err error) {
	if err := c.authorizeOperation(); err != nil {
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

// visibleKeys returns the keys that match and on which the caller may do the action.
func (c *call) visibleKeys(match func(k store.Key) bool) (keys []store.Key) {
	for k := range c.records.Keys().All() {
		if match(k) && c.authorizeKey(k.KeyId, &k) == nil {
			keys = append(keys, k)
		}
	}
	return keys
}

// anyKey returns a key without authorising the caller, or nil if there is no such key. It is
// only for local administrators, who may see all keys.
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

// currentAlias returns the current record of an alias. If the alias no longer points to the
// authorised key, currentAlias asks for the permission on the key that it points to.
func (c *call) currentAlias(records *store.Records, aliasName string, authorised permitted) (store.Alias, error) {
	alias, err := records.Aliases().Get(aliasName)
	if errors.Is(err, store.ErrNotFound) {
		return alias, kms.ErrAliasNotFound // another call has just deleted it
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

// namedARN returns the ARN of the record with a name, of the kind that the call's operation
// is about.
func (c *call) namedARN(name string) string { return c.server.namedARN(c.operation.Operation, name) }
