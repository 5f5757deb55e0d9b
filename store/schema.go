package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"go.etcd.io/bbolt"
	bberrors "go.etcd.io/bbolt/errors"
)

// schemaVersion is the version of the file's layout. The file is a bbolt database. All values
// except the version are JSON.
//
//	meta
//	    schema      the version of this layout, in decimal
//	    instance    Instance
//	    auditkey    hsm.Key: the one that signs the audit log's checkpoints
//	    audithead   AuditHead
//	    clock       ClockState, once there is one
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
//   - 3 also had the bucket retiredkeys, with the remains of deleted client keys.
//   - 2 lacked the last four buckets.
//   - 1 also lacked policies, outbox, auditkey and audithead. Its User held the documents of
//     policies instead of their names.
const schemaVersion = 4

// completeSince is the first version that has all buckets of the current one.
const completeSince = 3

var (
	bucketMeta   = []byte("meta")
	keySchema    = []byte("schema")
	keyInstance  = []byte("instance")
	keyAuditKey  = []byte("auditkey")
	keyAuditHead = []byte("audithead")
	keyClock     = []byte("clock")
)

// migrate brings the file to schemaVersion and returns the version that it had. A new file has
// version 0.
func migrate(tx *bbolt.Tx) (version int, err error) {
	meta, err := tx.CreateBucketIfNotExists(bucketMeta)
	if err != nil {
		return 0, err
	}
	if version, err = storedVersion(tx); err != nil {
		return 0, err
	}
	if version > schemaVersion {
		return 0, fmt.Errorf("schema version %d is from a newer kmsgate; this one supports up to %d (upgrade kmsgate)",
			version, schemaVersion)
	}
	if version == 1 {
		if err := extractPolicies(tx); err != nil {
			return 0, fmt.Errorf("migrating the policies from schema version 1: %w", err)
		}
	}
	if version == 3 {
		if err := tx.DeleteBucket([]byte("retiredkeys")); err != nil && !errors.Is(err, bberrors.ErrBucketNotFound) {
			return 0, fmt.Errorf("removing the deleted client keys of schema version 3: %w", err)
		}
	}
	return version, meta.Put(keySchema, []byte(strconv.Itoa(schemaVersion)))
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
