package store

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/tidwall/btree"
	"go.etcd.io/bbolt"
	bberrors "go.etcd.io/bbolt/errors"

	"github.com/kmsgate/kmsgate/hsm"
)

// The file is a bbolt database. All values but the version are JSON.
//
//	meta
//	    schema      the version of this layout, in decimal
//	    instance    Instance
//	    auditkey    hsm.Key: the one that signs the audit log's checkpoints
//	    audithead   Head
//	keys            KeyId                    → Key
//	versions        KeyId "/" KeyVersionId   → KeyVersion
//	aliases         AliasName                → Alias
//	users           UserName                 → User
//	accesskeys      AccessKeyId              → AccessKey
//	orphans         KeyVersionId             → Orphan
//	nonces          Until "/" AccessKeyId "/" Nonce → Nonce
//	policies        PolicyName               → Policy
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

var (
	bucketMeta   = []byte("meta")
	keySchema    = []byte("schema")
	keyInstance  = []byte("instance")
	keyAuditKey  = []byte("auditkey")
	keyAuditHead = []byte("audithead")
)

// A table is one bucket of records of one type, mirrored in memory.
type table[R any] struct {
	bucket string
	in     func(*snapshot) **rows[R]
}

type rows[R any] = btree.Map[string, R]

var (
	keys       = table[Key]{"keys", func(s *snapshot) **rows[Key] { return &s.keys }}
	versions   = table[KeyVersion]{"versions", func(s *snapshot) **rows[KeyVersion] { return &s.versions }}
	aliases    = table[Alias]{"aliases", func(s *snapshot) **rows[Alias] { return &s.aliases }}
	users      = table[User]{"users", func(s *snapshot) **rows[User] { return &s.users }}
	accessKeys = table[AccessKey]{"accesskeys", func(s *snapshot) **rows[AccessKey] { return &s.accessKeys }}
	orphans    = table[Orphan]{"orphans", func(s *snapshot) **rows[Orphan] { return &s.orphans }}
	nonces     = table[Nonce]{"nonces", func(s *snapshot) **rows[Nonce] { return &s.nonces }}
	policies   = table[Policy]{"policies", func(s *snapshot) **rows[Policy] { return &s.policies }}
	outbox     = table[Outbox]{"outbox", func(s *snapshot) **rows[Outbox] { return &s.outbox }}

	networkRules = table[NetworkRule]{"networkrules", func(s *snapshot) **rows[NetworkRule] { return &s.networkRules }}
	permissions  = table[PermissionPolicy]{"permissions", func(s *snapshot) **rows[PermissionPolicy] { return &s.permissions }}
	accessPoints = table[ApplicationAccessPoint]{"accesspoints", func(s *snapshot) **rows[ApplicationAccessPoint] { return &s.accessPoints }}
	clientKeys   = table[ClientKey]{"clientkeys", func(s *snapshot) **rows[ClientKey] { return &s.clientKeys }}
)

// tables is every table, for what is done to all of them.
var tables = []interface {
	open(tx *bbolt.Tx, before int, into *snapshot) error
	fork(from, to *snapshot)
}{keys, versions, aliases, users, accessKeys, orphans, nonces, policies, outbox, networkRules, permissions, accessPoints, clientKeys}

// A snapshot is all records at one moment. Once published it does not change.
type snapshot struct {
	instance   Instance
	auditKey   hsm.Key
	auditHead  Head
	keys       *rows[Key]
	versions   *rows[KeyVersion]
	aliases    *rows[Alias]
	users      *rows[User]
	accessKeys *rows[AccessKey]
	orphans    *rows[Orphan]
	nonces     *rows[Nonce]
	policies   *rows[Policy]
	outbox     *rows[Outbox]

	networkRules *rows[NetworkRule]
	permissions  *rows[PermissionPolicy]
	accessPoints *rows[ApplicationAccessPoint]
	clientKeys   *rows[ClientKey]

	aliasesOf *btree.Set[string] // KeyId "/" AliasName; in memory only
}

// fork gives a snapshot that can be changed without changing s. It takes the
// same time whatever the number of records: pages are copied when written.
func (s *snapshot) fork() *snapshot {
	next := &snapshot{instance: s.instance, auditKey: s.auditKey, auditHead: s.auditHead, aliasesOf: s.aliasesOf.Copy()}
	for _, t := range tables {
		t.fork(s, next)
	}
	return next
}

// index makes what is kept in memory only.
func (s *snapshot) index() {
	s.aliasesOf = new(btree.Set[string])
	s.aliases.Scan(func(name string, a Alias) bool {
		s.aliasesOf.Insert(a.KeyId + "/" + name)
		return true
	})
}

func (t table[R]) fork(from, to *snapshot) { *t.in(to) = (*t.in(from)).Copy() }

// open reads all of the bucket. It makes one only in a file of an earlier version,
// or a new one.
func (t table[R]) open(tx *bbolt.Tx, before int, into *snapshot) error {
	if before == schemaVersion && tx.Bucket([]byte(t.bucket)) == nil {
		return fmt.Errorf("%w: %s are missing: %s", ErrDamaged, t.bucket, restoreAdvice)
	}
	b, err := tx.CreateBucketIfNotExists([]byte(t.bucket))
	if err != nil {
		return err
	}
	all := new(rows[R])
	*t.in(into) = all
	return b.ForEach(func(id, value []byte) error {
		var r R
		if err := json.Unmarshal(value, &r); err != nil {
			return unreadable(fmt.Sprintf("record %q in %s", id, t.bucket), err)
		}
		all.Set(string(id), r)
		return nil
	})
}

// get gives a record, or ErrNotFound.
func (t table[R]) get(tx *Tx, id string) (R, error) {
	r, ok := (*t.in(tx.now)).Get(id)
	if !ok {
		return r, fmt.Errorf("%w: %q in %s", ErrNotFound, id, t.bucket)
	}
	return r, nil
}

func (t table[R]) put(tx *Tx, id string, r R) error {
	value, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encoding record %q for %s: %w", id, t.bucket, err)
	}
	if err := tx.bolt.Bucket([]byte(t.bucket)).Put([]byte(id), value); err != nil {
		return fmt.Errorf("writing record %q to %s: %w", id, t.bucket, err)
	}
	(*t.in(tx.now)).Set(id, r)
	return nil
}

func (t table[R]) delete(tx *Tx, id string) error {
	if err := tx.bolt.Bucket([]byte(t.bucket)).Delete([]byte(id)); err != nil {
		return fmt.Errorf("deleting record %q from %s: %w", id, t.bucket, err)
	}
	(*t.in(tx.now)).Delete(id)
	return nil
}

// page gives up to n records from the skip'th on, in the order of their ids.
func (t table[R]) page(tx *Tx, skip, n int) []R {
	all := *t.in(tx.now)
	var page []R
	for i := skip; i < min(skip+n, all.Len()); i++ {
		_, r, _ := all.GetAt(i)
		page = append(page, r)
	}
	return page
}

func (t table[R]) len(tx *Tx) int { return (*t.in(tx.now)).Len() }

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

// namePolicies makes Policy records of the documents that users had in schema
// version 1. The only one that kmsgate itself gave them is a system policy now.
func namePolicies(tx *bbolt.Tx) error {
	const fullAccess = `{"Version":"1","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*"}]}`
	to, err := tx.CreateBucketIfNotExists([]byte(policies.bucket))
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
			p := Policy{PolicyName: fmt.Sprintf("%s-%d", u.UserName, i+1), Description: "of schema version 1", PolicyDocument: document,
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

// sortByDate puts versions in the order of their creation; those of one moment
// in the order of their ids.
func sortByDate(all []KeyVersion) {
	slices.SortFunc(all, func(a, b KeyVersion) int {
		return cmp.Or(a.CreationDate.Compare(b.CreationDate), cmp.Compare(a.KeyVersionId, b.KeyVersionId))
	})
}
