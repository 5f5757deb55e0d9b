package store

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/btree"

	"github.com/kmsgate/kmsgate/hsm"
)

var (
	keys = kind[Key]{bucket: "keys", id: func(k Key) string { return k.KeyId },
		field: func(r *Records) **rows[Key] { return &r.keys }, cascade: deleteKeyParts}
	versions = kind[KeyVersion]{bucket: "versions",
		id:    func(v KeyVersion) string { return versionId(v.KeyId, v.KeyVersionId) },
		field: func(r *Records) **rows[KeyVersion] { return &r.versions }}
	aliases = kind[Alias]{bucket: "aliases", id: func(a Alias) string { return a.AliasName },
		field: func(r *Records) **rows[Alias] { return &r.aliases }, index: indexAlias}
	users = kind[User]{bucket: "users", id: func(u User) string { return u.UserName },
		field: func(r *Records) **rows[User] { return &r.users }, cascade: deleteUserParts}
	accessKeys = kind[AccessKey]{bucket: "accesskeys", id: func(a AccessKey) string { return a.AccessKeyId },
		field: func(r *Records) **rows[AccessKey] { return &r.accessKeys }}
	orphans = kind[Orphan]{bucket: "orphans", id: func(o Orphan) string { return o.KeyVersionId },
		field: func(r *Records) **rows[Orphan] { return &r.orphans }}
	nonces = kind[Nonce]{bucket: "nonces",
		id:    func(n Nonce) string { return fmt.Sprintf("%020d/%s/%s", n.Until.Unix(), n.AccessKeyId, n.Nonce) },
		field: func(r *Records) **rows[Nonce] { return &r.nonces }}
	ramPolicies = kind[RamPolicy]{bucket: "policies", id: func(p RamPolicy) string { return p.PolicyName },
		field: func(r *Records) **rows[RamPolicy] { return &r.ramPolicies }}
	outbox = kind[Outbox]{bucket: "outbox", id: func(o Outbox) string { return o.RequestId },
		field: func(r *Records) **rows[Outbox] { return &r.outbox }}
	networkRules = kind[NetworkRule]{bucket: "networkrules", id: func(n NetworkRule) string { return n.Name },
		field: func(r *Records) **rows[NetworkRule] { return &r.networkRules }}
	permissionPolicies = kind[PermissionPolicy]{bucket: "permissions",
		id:    func(p PermissionPolicy) string { return p.Name },
		field: func(r *Records) **rows[PermissionPolicy] { return &r.permissionPolicies }}
	accessPoints = kind[ApplicationAccessPoint]{bucket: "accesspoints",
		id:      func(a ApplicationAccessPoint) string { return a.Name },
		field:   func(r *Records) **rows[ApplicationAccessPoint] { return &r.accessPoints },
		cascade: deleteAccessPointParts}
	clientKeys = kind[ClientKey]{bucket: "clientkeys", id: func(k ClientKey) string { return k.ClientKeyId },
		field: func(r *Records) **rows[ClientKey] { return &r.clientKeys }}
)

type anyKind interface {
	name() string
	has(r *Records, id string) bool
	clear(r *Records)
	load(r *Records, id string, value []byte) error
	save(r *Records, put func(id string, record any) error) error
	fork(src, dst *Records)
}

// kinds lists every kind.
var kinds = []anyKind{
	keys, versions, aliases, users, accessKeys, orphans, nonces, ramPolicies, outbox, networkRules, permissionPolicies,
	accessPoints, clientKeys,
}

// kindOf has every kind by its bucket.
var kindOf = func() map[string]anyKind {
	all := make(map[string]anyKind)
	for _, k := range kinds {
		all[k.name()] = k
	}
	return all
}()

// Records are all records at one moment. They do not change, and are safe for concurrent use.
type Records struct {
	number             uint64
	instance           Instance
	auditKey           hsm.Key
	auditHead          AuditHead
	clock              ClockState
	rollback           Rollback
	counted            time.Time
	keys               *rows[Key]
	versions           *rows[KeyVersion]
	aliases            *rows[Alias]
	users              *rows[User]
	accessKeys         *rows[AccessKey]
	orphans            *rows[Orphan]
	nonces             *rows[Nonce]
	ramPolicies        *rows[RamPolicy]
	outbox             *rows[Outbox]
	networkRules       *rows[NetworkRule]
	permissionPolicies *rows[PermissionPolicy]
	accessPoints       *rows[ApplicationAccessPoint]
	clientKeys         *rows[ClientKey]

	keyAliases *btree.Set[string] // an index in memory only; KeyId "/" AliasName

	forking sync.Mutex // held while the trees are copied; copying a tree also writes to the original
}

// newRecords returns no records.
func newRecords() *Records {
	r := &Records{keyAliases: new(btree.Set[string])}
	for _, k := range kinds {
		k.clear(r)
	}
	return r
}

// fork returns a copy that can be changed without changing r. The time does not depend on the
// number of records, because the trees copy a node only when it is written.
func (r *Records) fork() *Records {
	r.forking.Lock()
	defer r.forking.Unlock()
	next := &Records{
		number: r.number, instance: r.instance, auditKey: r.auditKey, auditHead: r.auditHead, clock: r.clock,
		rollback: r.rollback, counted: r.counted, keyAliases: r.keyAliases.Copy(),
	}
	for _, k := range kinds {
		k.fork(r, next)
	}
	return next
}

// metaFields returns the records in the bucket meta, by key.
func metaFields(r *Records) map[string]any {
	return map[string]any{
		keyInstance: &r.instance, keyAuditKey: &r.auditKey, keyAuditHead: &r.auditHead, keyClock: &r.clock,
		keyRollback: &r.rollback, keyCounted: &r.counted,
	}
}

// Try calls f with a transaction on a copy of the records, discards the copy and returns f's error.
// Update would return the same error if the records did not change in between.
func (r *Records) Try(f func(tx *Tx) error) error {
	tx := &Tx{Records: r.fork()}
	defer func() { tx.done = true }()
	return f(tx)
}

// Number returns the number of the change that made the records, or that a Tx makes. Changes have increasing
// numbers. The number of a change that failed may be given to another.
func (r *Records) Number() uint64 { return r.number }

// Dump calls f with every record, until f returns an error: the bucket, the id, and the record, which can be
// encoded as JSON. Records of one bucket are ordered by id.
func Dump(r *Records, f func(bucket, id string, record any) error) error {
	fields := metaFields(r)
	for _, id := range slices.Sorted(maps.Keys(fields)) {
		if field := reflect.ValueOf(fields[id]).Elem(); !field.IsZero() {
			if err := f(bucketMeta, id, field.Interface()); err != nil {
				return err
			}
		}
	}
	for _, k := range kinds {
		if err := k.save(r, func(id string, record any) error { return f(k.name(), id, record) }); err != nil {
			return err
		}
	}
	return nil
}

// Instance returns the instance that the database belongs to, or the zero Instance before
// SetInstance.
func (r *Records) Instance() Instance { return r.instance }

// AuditKey returns the key that signs the audit log's checkpoints, or the zero Key before
// SetAuditKey.
func (r *Records) AuditKey() hsm.Key { return r.auditKey }

// AuditHead returns the audit-log line that SetAuditHead recorded last.
func (r *Records) AuditHead() AuditHead { return r.auditHead }

// Clock returns what SetClock recorded last, or the zero ClockState.
func (r *Records) Clock() ClockState { return r.clock }

// Keys returns the keys, ordered by KeyId.
func (r *Records) Keys() Table[Key] { return keys.table(r) }

// Versions returns the versions of all keys. Version and VersionsOf return those of one key.
func (r *Records) Versions() Table[KeyVersion] { return versions.table(r) }

// Aliases returns the aliases, ordered by AliasName.
func (r *Records) Aliases() Table[Alias] { return aliases.table(r) }

// Users returns the users, ordered by UserName.
func (r *Records) Users() Table[User] { return users.table(r) }

// AccessKeys returns the access keys, ordered by AccessKeyId.
func (r *Records) AccessKeys() Table[AccessKey] { return accessKeys.table(r) }

// RamPolicies returns the RAM policies, ordered by PolicyName.
func (r *Records) RamPolicies() Table[RamPolicy] { return ramPolicies.table(r) }

// NetworkRules returns the network rules, ordered by Name.
func (r *Records) NetworkRules() Table[NetworkRule] { return networkRules.table(r) }

// PermissionPolicies returns the permission policies, ordered by Name.
func (r *Records) PermissionPolicies() Table[PermissionPolicy] { return permissionPolicies.table(r) }

// AccessPoints returns the application access points, ordered by Name.
func (r *Records) AccessPoints() Table[ApplicationAccessPoint] { return accessPoints.table(r) }

// ClientKeys returns the client keys, ordered by ClientKeyId.
func (r *Records) ClientKeys() Table[ClientKey] { return clientKeys.table(r) }

// Orphans returns the key pairs that belong to no version, ordered by KeyVersionId.
func (r *Records) Orphans() Table[Orphan] { return orphans.table(r) }

// Nonces returns the nonces that changes used, ordered by Until.
func (r *Records) Nonces() Table[Nonce] { return nonces.table(r) }

// Outbox returns the audit lines that may not be in the log yet, ordered by RequestId.
func (r *Records) Outbox() Table[Outbox] { return outbox.table(r) }

func versionId(keyId, keyVersionId string) string { return keyId + "/" + keyVersionId }

// Version returns a version of a key, or ErrNotFound.
func (r *Records) Version(keyId, keyVersionId string) (KeyVersion, error) {
	return versions.table(r).Get(versionId(keyId, keyVersionId))
}

// VersionsOf returns all versions of a key, the oldest first. Versions created at the same moment
// are ordered by id.
func (r *Records) VersionsOf(keyId string) []KeyVersion {
	var all []KeyVersion
	r.versions.Ascend(versionId(keyId, ""), func(_ string, v KeyVersion) bool {
		if v.KeyId != keyId {
			return false
		}
		all = append(all, v)
		return true
	})
	slices.SortFunc(all, func(a, b KeyVersion) int {
		return cmp.Or(a.CreationDate.Compare(b.CreationDate), cmp.Compare(a.KeyVersionId, b.KeyVersionId))
	})
	return all
}

// AliasesOf returns the aliases of a key, ordered by name.
func (r *Records) AliasesOf(keyId string) []Alias {
	var all []Alias
	prefix := keyId + "/"
	r.keyAliases.Ascend(prefix, func(id string) bool {
		name, ok := strings.CutPrefix(id, prefix)
		if !ok {
			return false
		}
		if a, ok := r.aliases.Get(name); ok {
			all = append(all, a)
		}
		return true
	})
	return all
}

func indexAlias(r *Records, before, after *Alias) {
	if before != nil {
		r.keyAliases.Delete(before.KeyId + "/" + before.AliasName)
	}
	if after != nil {
		r.keyAliases.Insert(after.KeyId + "/" + after.AliasName)
	}
}

// deleteKeyParts deletes the versions and aliases of a key. The versions' key pairs become orphans.
func deleteKeyParts(tx *Tx, k Key) error {
	since := time.Now().UTC()
	for _, v := range tx.VersionsOf(k.KeyId) {
		if err := tx.Orphans().Put(Orphan{KeyVersionId: v.KeyVersionId, Since: since, Key: v.Key}); err != nil {
			return err
		}
		if err := tx.Versions().Delete(versionId(v.KeyId, v.KeyVersionId)); err != nil {
			return err
		}
	}
	for _, a := range tx.AliasesOf(k.KeyId) {
		if err := tx.Aliases().Delete(a.AliasName); err != nil {
			return err
		}
	}
	return nil
}

func deleteUserParts(tx *Tx, u User) error {
	for _, a := range slices.Collect(tx.AccessKeys().All()) {
		if a.UserName == u.UserName {
			if err := tx.AccessKeys().Delete(a.AccessKeyId); err != nil {
				return err
			}
		}
	}
	return nil
}

func deleteAccessPointParts(tx *Tx, a ApplicationAccessPoint) error {
	for _, k := range slices.Collect(tx.ClientKeys().All()) {
		if k.AapName == a.Name {
			if err := tx.ClientKeys().Delete(k.ClientKeyId); err != nil {
				return err
			}
		}
	}
	return nil
}
