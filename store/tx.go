package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/kmsgate/kmsgate/hsm"
)

// A Tx is a transaction that changes records. It reads the records with its own changes applied.
type Tx struct {
	*Records
	id     string           // see SetTxId
	writes map[place][]byte // encoded records, nil to delete; the map is nil in a trial
	done   bool             // the transaction has ended; readers may already see its records
}

// Keys returns the keys.
func (tx *Tx) Keys() Writable[Key] { return keys.writable(tx) }

// Versions returns the versions of all keys.
func (tx *Tx) Versions() Writable[KeyVersion] { return versions.writable(tx) }

// Aliases returns the aliases.
func (tx *Tx) Aliases() Writable[Alias] { return aliases.writable(tx) }

// Users returns the users.
func (tx *Tx) Users() Writable[User] { return users.writable(tx) }

// AccessKeys returns the access keys.
func (tx *Tx) AccessKeys() Writable[AccessKey] { return accessKeys.writable(tx) }

// RamPolicies returns the RAM policies.
func (tx *Tx) RamPolicies() Writable[RamPolicy] { return ramPolicies.writable(tx) }

// NetworkRules returns the network rules.
func (tx *Tx) NetworkRules() Writable[NetworkRule] { return networkRules.writable(tx) }

// PermissionPolicies returns the permission policies.
func (tx *Tx) PermissionPolicies() Writable[PermissionPolicy] {
	return permissionPolicies.writable(tx)
}

// AccessPoints returns the application access points.
func (tx *Tx) AccessPoints() Writable[ApplicationAccessPoint] { return accessPoints.writable(tx) }

// ClientKeys returns the client keys.
func (tx *Tx) ClientKeys() Writable[ClientKey] { return clientKeys.writable(tx) }

// Orphans returns the key pairs that belong to no version.
func (tx *Tx) Orphans() Writable[Orphan] { return orphans.writable(tx) }

// Outbox returns the audit lines that may not be in the log yet.
func (tx *Tx) Outbox() Writable[Outbox] { return outbox.writable(tx) }

// PutNonce writes a nonce, and returns ErrNonceUsed if it exists. It also deletes up to two nonces whose
// Until is before forget, so that old ones do not accumulate. From then on, a nonce is also ErrNonceUsed
// if its Until is not after that of a deleted one: it may have been used.
func (tx *Tx) PutNonce(n Nonce, forget time.Time) error {
	all := nonces.writable(tx)
	if all.Has(nonces.id(n)) || !n.Until.After(tx.clock.NonceFloor) {
		return fmt.Errorf("%w: %q of access key %q", ErrNonceUsed, n.Nonce, n.AccessKeyId)
	}
	forgotten := false
	for range 2 {
		id, oldest, ok := all.rows.Min()
		if !ok || !oldest.Until.Before(forget) {
			break
		}
		if err := all.Delete(id); err != nil {
			return err
		}
		tx.clock.NonceFloor, forgotten = oldest.Until, true
	}
	if forgotten {
		if err := tx.SetClock(tx.clock); err != nil {
			return err
		}
	}
	return all.Put(n)
}

// SetClock records what must be known of this machine's clock after a restart.
func (tx *Tx) SetClock(c ClockState) error {
	if err := tx.write(bucketMeta, keyClock, c); err != nil {
		return err
	}
	tx.clock = c
	return nil
}

// SetInstance records the instance that the database belongs to.
func (tx *Tx) SetInstance(i Instance) error {
	if err := tx.write(bucketMeta, keyInstance, i); err != nil {
		return err
	}
	tx.instance = i
	return nil
}

// SetAuditKey records the key that signs the audit log's checkpoints.
func (tx *Tx) SetAuditKey(k hsm.Key) error {
	if err := tx.write(bucketMeta, keyAuditKey, k); err != nil {
		return err
	}
	tx.auditKey = k
	return nil
}

// SetAuditHead records a line of the audit log as its head.
func (tx *Tx) SetAuditHead(h AuditHead) error {
	if err := tx.write(bucketMeta, keyAuditHead, h); err != nil {
		return err
	}
	tx.auditHead = h
	return nil
}

// SetTxId records which request makes the change.
func SetTxId(tx *Tx, requestId string) { tx.id = requestId }

// A place is where a record is written.
type place struct{ bucket, id string }

// MaxWrites is how many records one change may write. The greatest changes are the deletions of a key with up
// to 10,000 aliases, and of an access point with up to 10,000 client keys.
const MaxWrites = 25_000

func (tx *Tx) write(bucket, id string, record any) error {
	value, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("encoding record %q for bucket %q: %w", id, bucket, err)
	}
	if tx.done {
		return errDone
	}
	if tx.writes != nil {
		tx.writes[place{bucket, id}] = value
	}
	return nil
}

func (tx *Tx) erase(bucket, id string) error {
	if tx.done {
		return errDone
	}
	if tx.writes != nil {
		tx.writes[place{bucket, id}] = nil
	}
	return nil
}

var errDone = errors.New("database transaction used after its end")
