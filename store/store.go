// Package store keeps the records: keys, versions, aliases, users and their access
// keys, access points and their client keys, in one bbolt file.
//
// It guarantees that a change is either wholly there or not at all, and is on
// stable storage when Update returns; that a reader sees all records as they
// were at one moment; and that reading takes no lock and does no I/O, because
// all records are also in memory. Nothing in the file is secret in the clear:
// access-key secrets and software keys are sealed by the token.
//
// Records are values. What they hold by reference (byte slices, maps) is shared and
// must not be modified.
package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	bberrors "go.etcd.io/bbolt/errors"

	"github.com/kmsgate/kmsgate/hsm"
)

var (
	// ErrNotFound: there is no such record.
	ErrNotFound = errors.New("no such record")
	// ErrExists: there is such a record already.
	ErrExists = errors.New("record exists already")
	// ErrUncertain: a commit failed, and whether its changes are in the file will
	// be known when it is opened again. Until then nothing can be changed.
	ErrUncertain = errors.New("a change of the database failed and may or may not be there: restart to find out")
	// ErrLocked: another process has the file open.
	ErrLocked = errors.New("the database is in use by another process")
)

// A Store is an open database. Its methods may be called from any goroutine.
type Store struct {
	db      *bbolt.DB
	current atomic.Pointer[snapshot] // replaced while updating is held, read at any time

	// updating is held from the fork of a snapshot until the result is
	// published. bbolt's own lock is not enough: it is released before a commit
	// can be published, and the next writer would fork what came before.
	updating sync.Mutex
	ruined   error // set for good when a commit failed; guarded by updating
}

// Open opens the file at path, creating it with mode 0600 if there is none. A
// file that was written by a newer version of the schema is refused, and so is a
// damaged one, which is ErrDamaged.
func Open(path string) (*Store, error) {
	switch err := examine(path); {
	case errors.Is(err, ErrLocked):
		return nil, fmt.Errorf("%w: %s", err, path)
	case errors.Is(err, ErrDamaged):
		return nil, fmt.Errorf("opening %s: %w: %s", path, err, restoreAdvice)
	case err != nil:
		return nil, fmt.Errorf("opening the database %s: %w", path, err)
	}
	// The list of free pages is found at opening and not written at every
	// commit, which would cost more the more records there are.
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType, NoFreelistSync: true})
	if errors.Is(err, bberrors.ErrTimeout) {
		return nil, fmt.Errorf("%w: %s", ErrLocked, path)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the database %s: %w", path, err)
	}
	s := &Store{db: db}
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("reading the database %s: %w", path, err), db.Close())
	}
	return s, nil
}

func (s *Store) load() error {
	first := new(snapshot)
	err := s.db.Update(func(tx *bbolt.Tx) error {
		before, err := migrate(tx)
		if err != nil {
			return err
		}
		for key, into := range map[*[]byte]any{&keyInstance: &first.instance, &keyAuditKey: &first.auditKey, &keyAuditHead: &first.auditHead} {
			if value := tx.Bucket(bucketMeta).Get(*key); value != nil {
				if err := json.Unmarshal(value, into); err != nil {
					return unreadable(string(*key), err)
				}
			}
		}
		for _, t := range tables {
			if err := t.open(tx, before, first); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	first.index()
	s.current.Store(first)
	return nil
}

// Close closes the file.
func (s *Store) Close() error { return s.db.Close() }

// View calls f with the records as they are at this moment.
func (s *Store) View(f func(tx *Tx) error) error {
	return f(&Tx{now: s.current.Load()})
}

// Update calls f with a transaction in which records can be changed. If f
// returns nil the changes are on stable storage when Update does; if it returns
// an error, that error is returned and nothing has changed. If the commit itself
// fails it is ErrUncertain, and so is every Update after it. Updates run one at
// a time.
func (s *Store) Update(f func(tx *Tx) error) error {
	s.updating.Lock()
	defer s.updating.Unlock()
	if s.ruined != nil {
		return s.ruined
	}
	bolt, err := s.db.Begin(true)
	if err != nil {
		return fmt.Errorf("beginning a change of the database: %w", err)
	}
	defer bolt.Rollback() // after Commit it does nothing
	tx := &Tx{now: s.current.Load().fork(), bolt: bolt}
	if err := f(tx); err != nil {
		return err
	}
	if err := bolt.Commit(); err != nil {
		// The pages may be written and only their flush have failed; bbolt
		// would go on from them, and the snapshot from what was before.
		s.ruined = fmt.Errorf("%w: %w", ErrUncertain, err)
		return s.ruined
	}
	s.current.Store(tx.now)
	return nil
}

// A Tx is the records at one moment and, in an Update, changes of them.
type Tx struct {
	now  *snapshot
	bolt *bbolt.Tx // nil in a View
}

// Instance gives which instance the database is of; the zero Instance before
// SetInstance.
func (tx *Tx) Instance() Instance { return tx.now.instance }

// SetInstance says which instance the database is of.
func (tx *Tx) SetInstance(i Instance) error {
	tx.now.instance = i
	return putJSON(tx.bolt.Bucket(bucketMeta), string(keyInstance), i)
}

// AuditKey gives the key that signs the audit log's checkpoints; the zero Key
// before SetAuditKey.
func (tx *Tx) AuditKey() hsm.Key { return tx.now.auditKey }

// SetAuditKey says which key signs the audit log's checkpoints.
func (tx *Tx) SetAuditKey(k hsm.Key) error {
	tx.now.auditKey = k
	return putJSON(tx.bolt.Bucket(bucketMeta), string(keyAuditKey), k)
}

// AuditHead gives the line of the audit log that was kept last.
func (tx *Tx) AuditHead() Head { return tx.now.auditHead }

// SetAuditHead keeps a line of the audit log.
func (tx *Tx) SetAuditHead(h Head) error {
	tx.now.auditHead = h
	return putJSON(tx.bolt.Bucket(bucketMeta), string(keyAuditHead), h)
}

// Key gives a key, or ErrNotFound.
func (tx *Tx) Key(keyId string) (Key, error) { return keys.get(tx, keyId) }

// PutKey writes a key, new or changed.
func (tx *Tx) PutKey(k Key) error { return keys.put(tx, k.KeyId, k) }

// Keys gives up to n keys from the skip'th on, ordered by KeyId.
func (tx *Tx) Keys(skip, n int) []Key { return keys.page(tx, skip, n) }

// EachKey calls f with every key, ordered by KeyId.
func (tx *Tx) EachKey(f func(Key)) {
	(*keys.in(tx.now)).Scan(func(_ string, k Key) bool {
		f(k)
		return true
	})
}

// DeleteKey deletes a key with its versions and aliases. Their key pairs become
// orphans.
func (tx *Tx) DeleteKey(keyId string, now time.Time) error {
	for _, v := range tx.KeyVersions(keyId) {
		if err := tx.PutOrphan(Orphan{KeyVersionId: v.KeyVersionId, Since: now, Key: v.Key}); err != nil {
			return err
		}
		if err := versions.delete(tx, v.KeyId+"/"+v.KeyVersionId); err != nil {
			return err
		}
	}
	for _, a := range tx.AliasesOf(keyId) {
		if err := tx.DeleteAlias(a.AliasName); err != nil {
			return err
		}
	}
	return keys.delete(tx, keyId)
}

// CountKeys gives the number of keys.
func (tx *Tx) CountKeys() int { return keys.len(tx) }

// KeyVersion gives a version of a key, or ErrNotFound.
func (tx *Tx) KeyVersion(keyId, keyVersionId string) (KeyVersion, error) {
	return versions.get(tx, keyId+"/"+keyVersionId)
}

// PutKeyVersion writes a version.
func (tx *Tx) PutKeyVersion(v KeyVersion) error {
	return versions.put(tx, v.KeyId+"/"+v.KeyVersionId, v)
}

// KeyVersions gives all versions of a key, the oldest first.
func (tx *Tx) KeyVersions(keyId string) []KeyVersion {
	var all []KeyVersion
	prefix := keyId + "/"
	(*versions.in(tx.now)).Ascend(prefix, func(_ string, v KeyVersion) bool {
		if v.KeyId != keyId {
			return false
		}
		all = append(all, v)
		return true
	})
	sortByDate(all)
	return all
}

// Alias gives an alias, or ErrNotFound.
func (tx *Tx) Alias(aliasName string) (Alias, error) { return aliases.get(tx, aliasName) }

// CreateAlias writes a new alias; if the name is taken it is ErrExists.
func (tx *Tx) CreateAlias(a Alias) error {
	if _, err := tx.Alias(a.AliasName); err == nil {
		return fmt.Errorf("%w: %q", ErrExists, a.AliasName)
	}
	return tx.PutAlias(a)
}

// PutAlias writes an alias, new or changed.
func (tx *Tx) PutAlias(a Alias) error {
	if before, err := tx.Alias(a.AliasName); err == nil {
		tx.now.aliasesOf.Delete(before.KeyId + "/" + before.AliasName)
	}
	tx.now.aliasesOf.Insert(a.KeyId + "/" + a.AliasName)
	return aliases.put(tx, a.AliasName, a)
}

// AliasesOf gives the aliases of a key, ordered by name.
func (tx *Tx) AliasesOf(keyId string) []Alias {
	var all []Alias
	prefix := keyId + "/"
	tx.now.aliasesOf.Ascend(prefix, func(id string) bool {
		name, ours := strings.CutPrefix(id, prefix)
		if !ours {
			return false
		}
		if a, err := tx.Alias(name); err == nil {
			all = append(all, a)
		}
		return true
	})
	return all
}

// DeleteAlias deletes an alias, or gives ErrNotFound.
func (tx *Tx) DeleteAlias(aliasName string) error {
	a, err := tx.Alias(aliasName)
	if err != nil {
		return err
	}
	tx.now.aliasesOf.Delete(a.KeyId + "/" + aliasName)
	return aliases.delete(tx, aliasName)
}

// Aliases gives up to n aliases from the skip'th on, ordered by name.
func (tx *Tx) Aliases(skip, n int) []Alias { return aliases.page(tx, skip, n) }

// CountAliases gives the number of aliases.
func (tx *Tx) CountAliases() int { return aliases.len(tx) }

// User gives a user, or ErrNotFound.
func (tx *Tx) User(userName string) (User, error) { return users.get(tx, userName) }

// PutUser writes a user.
func (tx *Tx) PutUser(u User) error { return users.put(tx, u.UserName, u) }

// Users gives all users, ordered by name.
func (tx *Tx) Users() []User { return users.page(tx, 0, users.len(tx)) }

// DeleteUser deletes a user with its access keys.
func (tx *Tx) DeleteUser(userName string) error {
	for _, a := range tx.AccessKeys() {
		if a.UserName == userName {
			if err := tx.DeleteAccessKey(a.AccessKeyId); err != nil {
				return err
			}
		}
	}
	return users.delete(tx, userName)
}

// Policy gives a policy, or ErrNotFound.
func (tx *Tx) Policy(policyName string) (Policy, error) { return policies.get(tx, policyName) }

// PutPolicy writes a policy.
func (tx *Tx) PutPolicy(p Policy) error { return policies.put(tx, p.PolicyName, p) }

// DeletePolicy deletes a policy.
func (tx *Tx) DeletePolicy(policyName string) error { return policies.delete(tx, policyName) }

// Policies gives all policies, ordered by name.
func (tx *Tx) Policies() []Policy { return policies.page(tx, 0, policies.len(tx)) }

// AccessKey gives an access key, or ErrNotFound.
func (tx *Tx) AccessKey(accessKeyId string) (AccessKey, error) {
	return accessKeys.get(tx, accessKeyId)
}

// PutAccessKey writes an access key.
func (tx *Tx) PutAccessKey(a AccessKey) error { return accessKeys.put(tx, a.AccessKeyId, a) }

// DeleteAccessKey deletes an access key.
func (tx *Tx) DeleteAccessKey(accessKeyId string) error { return accessKeys.delete(tx, accessKeyId) }

// AccessKeys gives all access keys, ordered by id.
func (tx *Tx) AccessKeys() []AccessKey { return accessKeys.page(tx, 0, accessKeys.len(tx)) }

// PutOrphan records a key pair that belongs to no version.
func (tx *Tx) PutOrphan(o Orphan) error { return orphans.put(tx, o.KeyVersionId, o) }

// Orphan gives a key pair that belongs to no version, or ErrNotFound.
func (tx *Tx) Orphan(keyVersionId string) (Orphan, error) { return orphans.get(tx, keyVersionId) }

// DeleteOrphan forgets a key pair: it has a version, or is destroyed.
func (tx *Tx) DeleteOrphan(keyVersionId string) error {
	return orphans.delete(tx, keyVersionId)
}

// Orphans gives the key pairs that belong to no version.
func (tx *Tx) Orphans() []Orphan { return orphans.page(tx, 0, orphans.len(tx)) }

// PutNonce remembers a nonce, and forgets a few that are past their time at
// now: as many as keep the table from growing.
func (tx *Tx) PutNonce(n Nonce, now time.Time) error {
	for range 2 {
		id, oldest, ok := (*nonces.in(tx.now)).Min()
		if !ok || oldest.Until.After(now) {
			break
		}
		if err := nonces.delete(tx, id); err != nil {
			return err
		}
	}
	id := fmt.Sprintf("%020d/%s/%s", n.Until.Unix(), n.AccessKeyId, n.Nonce)
	return nonces.put(tx, id, n)
}

// Nonces gives the remembered nonces.
func (tx *Tx) Nonces() []Nonce { return nonces.page(tx, 0, nonces.len(tx)) }

// PutOutbox writes the audit line of the change that tx makes.
func (tx *Tx) PutOutbox(o Outbox) error { return outbox.put(tx, o.RequestId, o) }

// DeleteOutbox forgets an audit line that is in the log.
func (tx *Tx) DeleteOutbox(requestId string) error { return outbox.delete(tx, requestId) }

// Outbox gives the audit lines that may not be in the log.
func (tx *Tx) Outbox() []Outbox { return outbox.page(tx, 0, outbox.len(tx)) }
