package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"github.com/kmsgate/kmsgate/hsm"
)

// A Tx changes records. What it reads are the records with its own changes.
type Tx struct {
	*Records
	bolt *bbolt.Tx // nil in a trial
	done bool      // it must not be used any more: others may read what it wrote
}

// Keys are the keys.
func (tx *Tx) Keys() Writable[Key] { return keys.writable(tx) }

// Versions are the versions of keys.
func (tx *Tx) Versions() Writable[KeyVersion] { return versions.writable(tx) }

// Aliases are the aliases.
func (tx *Tx) Aliases() Writable[Alias] { return aliases.writable(tx) }

// Users are the users.
func (tx *Tx) Users() Writable[User] { return users.writable(tx) }

// AccessKeys are the access keys.
func (tx *Tx) AccessKeys() Writable[AccessKey] { return accessKeys.writable(tx) }

// RamPolicies are the RAM policies.
func (tx *Tx) RamPolicies() Writable[RamPolicy] { return ramPolicies.writable(tx) }

// NetworkRules are the network rules.
func (tx *Tx) NetworkRules() Writable[NetworkRule] { return networkRules.writable(tx) }

// PermissionPolicies are the permission policies.
func (tx *Tx) PermissionPolicies() Writable[PermissionPolicy] {
	return permissionPolicies.writable(tx)
}

// AccessPoints are the application access points.
func (tx *Tx) AccessPoints() Writable[ApplicationAccessPoint] { return accessPoints.writable(tx) }

// ClientKeys are the client keys.
func (tx *Tx) ClientKeys() Writable[ClientKey] { return clientKeys.writable(tx) }

// Orphans are the key pairs that belong to no version.
func (tx *Tx) Orphans() Writable[Orphan] { return orphans.writable(tx) }

// Outbox are the audit lines that may not be in the log.
func (tx *Tx) Outbox() Writable[Outbox] { return outbox.writable(tx) }

// PutNonce remembers a nonce, and forgets a few that are past their time at
// now: as many as keep the table from growing.
func (tx *Tx) PutNonce(n Nonce, now time.Time) error {
	all := nonces.writable(tx)
	for range 2 {
		id, oldest, ok := all.rows.Min()
		if !ok || !oldest.Until.Before(now) { // at Until a request of this time can still be taken
			break
		}
		if err := all.Delete(id); err != nil {
			return err
		}
	}
	return all.Put(n)
}

// SetInstance says which instance the database is of.
func (tx *Tx) SetInstance(i Instance) error {
	if err := tx.write(string(bucketMeta), string(keyInstance), i); err != nil {
		return err
	}
	tx.instance = i
	return nil
}

// SetAuditKey says which key signs the audit log's checkpoints.
func (tx *Tx) SetAuditKey(k hsm.Key) error {
	if err := tx.write(string(bucketMeta), string(keyAuditKey), k); err != nil {
		return err
	}
	tx.auditKey = k
	return nil
}

// SetAuditHead keeps a line of the audit log.
func (tx *Tx) SetAuditHead(h AuditHead) error {
	if err := tx.write(string(bucketMeta), string(keyAuditHead), h); err != nil {
		return err
	}
	tx.auditHead = h
	return nil
}

func (tx *Tx) write(bucket, id string, record any) error {
	value, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("encoding record %q for %s: %w", id, bucket, err)
	}
	if tx.done {
		return errDone
	}
	if tx.bolt == nil {
		return nil
	}
	if err := tx.bolt.Bucket([]byte(bucket)).Put([]byte(id), value); err != nil {
		return fmt.Errorf("writing record %q to %s: %w", id, bucket, err)
	}
	return nil
}

func (tx *Tx) erase(bucket, id string) error {
	if tx.done {
		return errDone
	}
	if tx.bolt == nil {
		return nil
	}
	if err := tx.bolt.Bucket([]byte(bucket)).Delete([]byte(id)); err != nil {
		return fmt.Errorf("deleting record %q from %s: %w", id, bucket, err)
	}
	return nil
}

var errDone = errors.New("a transaction is used after its end")
