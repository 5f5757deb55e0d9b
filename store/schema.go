package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"go.etcd.io/bbolt"
	bberrors "go.etcd.io/bbolt/errors"
)

// The file is a bbolt database. All values but the version are JSON.
//
//	meta
//	    schema      the version of this layout, in decimal
//	    instance    Instance
//	    auditkey    hsm.Key: the one that signs the audit log's checkpoints
//	    audithead   AuditHead
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
// Version 3 had retiredkeys, with what was left of deleted client keys.
// Version 2 had none of the last four.
// Version 1 had no policies, outbox, auditkey and audithead, and the documents of
// policies in the place of their names in User.
const schemaVersion = 4

// completeSince is the version from which on there are all buckets of this one.
const completeSince = 3

var (
	bucketMeta   = []byte("meta")
	keySchema    = []byte("schema")
	keyInstance  = []byte("instance")
	keyAuditKey  = []byte("auditkey")
	keyAuditHead = []byte("audithead")
)

// migrate brings the file to schemaVersion, and gives the version that it had. A new
// file is one of version 0.
func migrate(tx *bbolt.Tx) (version int, err error) {
	meta, err := tx.CreateBucketIfNotExists(bucketMeta)
	if err != nil {
		return 0, err
	}
	if text := meta.Get(keySchema); text != nil {
		if version, err = strconv.Atoi(string(text)); err != nil {
			return 0, unreadable("the schema version", err)
		}
	}
	if version > schemaVersion {
		return 0, fmt.Errorf("the database has schema version %d and this program knows up to %d: it was written by a newer kmsgate", version, schemaVersion)
	}
	if version == 1 {
		if err := namePolicies(tx); err != nil {
			return 0, fmt.Errorf("naming the policies of schema version 1: %w", err)
		}
	}
	if version == 3 {
		if err := tx.DeleteBucket([]byte("retiredkeys")); err != nil && !errors.Is(err, bberrors.ErrBucketNotFound) {
			return 0, fmt.Errorf("dropping the deleted client keys of schema version 3: %w", err)
		}
	}
	return version, meta.Put(keySchema, []byte(strconv.Itoa(schemaVersion)))
}

// namePolicies makes RamPolicy records of the documents that users had in schema
// version 1. The only one that kmsgate itself gave them is a system policy now.
func namePolicies(tx *bbolt.Tx) error {
	const fullAccess = `{"Version":"1","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*"}]}`
	to, err := tx.CreateBucketIfNotExists([]byte(ramPolicies.bucket))
	if err != nil {
		return err
	}
	from, err := tx.CreateBucketIfNotExists([]byte(users.bucket))
	if err != nil {
		return err
	}
	changed := make(map[string]User)
	err = from.ForEach(func(id, value []byte) error {
		var u User
		if err := json.Unmarshal(value, &u); err != nil {
			return unreadable(fmt.Sprintf("user %q", id), err)
		}
		for i, document := range u.Policies {
			if document == fullAccess {
				u.Policies[i] = "AliyunKMSFullAccess"
				continue
			}
			p := RamPolicy{PolicyName: fmt.Sprintf("%s-%d", u.UserName, i+1), Description: "of schema version 1", PolicyDocument: document,
				CreationDate: u.CreationDate, UpdateDate: u.CreationDate}
			if err := putJSON(to, p.PolicyName, p); err != nil {
				return err
			}
			u.Policies[i] = p.PolicyName
		}
		changed[string(id)] = u
		return nil
	})
	for id, u := range changed { // a bucket must not be changed while it is walked
		if err == nil {
			err = putJSON(from, id, u)
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
