package store

import (
	"encoding/json"
	"fmt"

	"go.etcd.io/bbolt"
)

// schemaVersion is the version of the file's layout. The file is a bbolt database. All values are
// JSON, sealed with the data key, except the three in clear.
//
//	meta
//	    schema      in clear: the version of this layout, in decimal
//	    instance    in clear: Instance
//	    datakey     in clear: the data key, sealed by the token
//	    head        head
//	    auditkey    hsm.Key: the one that signs the audit log's checkpoints
//	    audithead   AuditHead
//	    clock       ClockState, once there is one
//	    rollback    Rollback, while there is one
//	    counted     time.Time, once the token has a number
//	keys            KeyId                    → Key
//	versions        KeyId "/" KeyVersionId   → KeyVersion
//	aliases         AliasName                → Alias
//	users           UserName                 → User
//	accesskeys      AccessKeyId              → AccessKey
//	orphans         KeyVersionId             → Orphan
//	nonces          Until "/" AccessKeyId "/" Nonce → Nonce
//	policies        PolicyName               → RamPolicy
//	outbox          RequestId                → Outbox
//	networkrules    Name                     → NetworkRule
//	permissions     Name                     → PermissionPolicy
//	accesspoints    Name                     → ApplicationAccessPoint
//	clientkeys      ClientKeyId              → ClientKey
//
// Earlier versions:
//
//   - 4 had all values in clear, and neither datakey nor head.
//   - 3 also had the bucket retiredkeys, with the remains of deleted client keys.
//   - 2 lacked the last four buckets.
//   - 1 also lacked policies, outbox, auditkey and audithead. Its User held the documents of
//     policies instead of their names.
const schemaVersion = 5

// sealedSince is the first version whose values are sealed.
const sealedSince = 5

// completeSince is the first version that has all buckets of the current one; in version 5, an empty one may be
// missing.
const completeSince = 3

const (
	bucketMeta   = "meta"
	keySchema    = "schema"
	keyInstance  = "instance"
	keyDataKey   = "datakey"
	keyHead      = "head"
	keyAuditKey  = "auditkey"
	keyAuditHead = "audithead"
	keyClock     = "clock"
	keyRollback  = "rollback"
	keyCounted   = "counted"
)

// inClear reports whether a value is not sealed.
func inClear(bucket, id string) bool {
	return bucket == bucketMeta && (id == keySchema || id == keyInstance || id == keyDataKey)
}

// loadOld reads the records of a version before sealedSince. It changes the transaction, which must
// therefore be rolled back.
func loadOld(tx *bbolt.Tx, version int) (*Records, error) {
	if version == 1 {
		if err := extractPolicies(tx); err != nil {
			return nil, fmt.Errorf("migrating the policies from schema version 1: %w", err)
		}
	}
	r := newRecords()
	for id, field := range metaFields(r) {
		if value := tx.Bucket([]byte(bucketMeta)).Get([]byte(id)); value != nil {
			if err := json.Unmarshal(value, field); err != nil {
				return nil, unreadable(fmt.Sprintf("record %q in bucket %q", id, bucketMeta), err)
			}
		}
	}
	for _, k := range kinds {
		b := tx.Bucket([]byte(k.name()))
		if b == nil && version >= completeSince {
			return nil, fmt.Errorf("%w: bucket %q is missing %s", ErrDamaged, k.name(), restoreAdvice)
		}
		if b == nil {
			continue
		}
		if err := b.ForEach(func(id, value []byte) error { return k.load(r, string(id), value) }); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// extractPolicies moves the policy documents of schema version 1 from the users into RamPolicy
// records. It replaces the only document that kmsgate itself attached to users by the system policy
// AliyunKMSFullAccess.
func extractPolicies(tx *bbolt.Tx) error {
	const fullAccess = `{"Version":"1","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*"}]}`
	policyBucket, err := tx.CreateBucketIfNotExists([]byte(ramPolicies.bucket))
	if err != nil {
		return err
	}
	userBucket, err := tx.CreateBucketIfNotExists([]byte(users.bucket))
	if err != nil {
		return err
	}
	changed := make(map[string]User)
	err = userBucket.ForEach(func(id, value []byte) error {
		var u User
		if err := json.Unmarshal(value, &u); err != nil {
			return unreadable(fmt.Sprintf("user %q", id), err)
		}
		for i, document := range u.Policies {
			if document == fullAccess {
				u.Policies[i] = "AliyunKMSFullAccess"
				continue
			}
			p := RamPolicy{
				PolicyName: fmt.Sprintf("%s-%d", u.UserName, i+1), Description: "migrated from schema version 1",
				PolicyDocument: document, CreationDate: u.CreationDate, UpdateDate: u.CreationDate,
			}
			if err := putJSON(policyBucket, p.PolicyName, p); err != nil {
				return err
			}
			u.Policies[i] = p.PolicyName
		}
		changed[string(id)] = u
		return nil
	})
	for id, u := range changed { // ForEach must not change its bucket
		if err == nil {
			err = putJSON(userBucket, id, u)
		}
	}
	return err
}

func putJSON(b *bbolt.Bucket, id string, record any) error {
	value, err := json.Marshal(record)
	if err != nil {
		return err
	}
	return b.Put([]byte(id), value)
}
