package gateway

import (
	"fmt"
	"net/http"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/store"
)

// update makes a change: it prepares f, and does f for good, with the records as they are
// then. f is called twice.
func (c *call) update(f func(tx *store.Tx) error) error {
	if err := c.prepare(f); err != nil {
		return err
	}
	return c.write(f)
}

// prepare tries f on the records as the call sees them, so that whatever would be refused
// is refused before the point of no return, in a dry run too; then it confirms. It is for an
// operation that has something to do before it writes.
func (c *call) prepare(f func(tx *store.Tx) error) error {
	if err := c.records.Try(f); err != nil {
		return err
	}
	return c.confirm()
}

// updateKey changes the record of a key that a request names.
func (c *call) updateKey(name string, change func(k *store.Key) error) error {
	key, err := c.key(name)
	if err != nil {
		return err
	}
	return c.updateKeys([]permitted{key}, change)
}

// updateKeys changes the records of permitted keys, all or none, in a transaction
// that sees them as they are then: concurrent changes of one key are one after the other.
func (c *call) updateKeys(keys []permitted, change func(k *store.Key) error) error {
	return c.update(func(tx *store.Tx) error {
		for _, key := range keys {
			k, err := current(tx.Records, key)
			if err != nil {
				return err
			}
			if err := change(&k); err != nil {
				return err
			}
			if err := tx.Keys().Put(k); err != nil {
				return err
			}
		}
		return nil
	})
}

// newPermitted returns a key that is going to be made, and what writes its record, if there
// may be one more.
func newPermitted(c *call, key store.Key) (permitted, func(tx *store.Tx) error) {
	return permitted{key}, func(tx *store.Tx) error {
		if tx.Keys().Len() >= c.server.config.MaxKeys {
			return kms.ErrLimitExceeded.Because("There are %d keys.", c.server.config.MaxKeys)
		}
		return tx.Keys().Create(key)
	}
}

// confirm is the point of no return: everything before it only looks, and after
// it nothing but a fault can keep the operation from succeeding. A dry run
// ends here. So does everything while the audit log cannot be written.
func (c *call) confirm() error {
	c.confirmed = true
	if err := c.server.config.Audit.Err(); err != nil {
		return fmt.Errorf("%w (%w)", kms.ErrAuditLog, err)
	}
	if c.dryRun {
		return kms.ErrDryRun
	}
	return nil
}

// write changes records on behalf of a confirmed call. The nonce goes into the
// same transaction, so that not even a restart lets the request be repeated; and
// so does the audit line, so that there is no change without one: what it says of
// the change has to be in the entry before.
func (c *call) write(f func(tx *store.Tx) error) error {
	if err := c.mayWrite(); err != nil {
		return err
	}
	entry := c.entry
	entry.Status = http.StatusOK
	err := c.server.journal.Update(entry, withNonce(c, f))
	c.changed = c.changed || err == nil
	return err
}

// record writes down what a confirmed call is going to do, which is nothing that
// anybody can see: it needs no audit line yet.
func (c *call) record(f func(tx *store.Tx) error) error {
	if err := c.mayWrite(); err != nil {
		return err
	}
	return c.server.config.Store.Update(withNonce(c, f))
}

func (c *call) mayWrite() error {
	if !c.confirmed || c.dryRun {
		return fmt.Errorf("the operation %s changes records without having confirmed", c.action)
	}
	return nil
}

func withNonce(c *call, f func(tx *store.Tx) error) func(tx *store.Tx) error {
	return func(tx *store.Tx) error {
		if c.nonce != nil {
			if err := tx.PutNonce(*c.nonce, c.now); err != nil {
				return err
			}
		}
		return f(tx)
	}
}

// mayHaveVersion holds a key to the limits of one more version.
func mayHaveVersion(c *call, records *store.Records, key permitted) error {
	versions := records.VersionsOf(key.KeyId)
	if len(versions) >= maxVersions {
		return kms.ErrLimitExceeded.Because("The key has %d versions.", maxVersions)
	}
	every := c.server.config.MinVersionInterval
	if len(versions) > 0 && c.now.Before(versions[len(versions)-1].CreationDate.Add(every)) {
		return kms.ErrRejectedUnsupported.Because("A key can have a new version every %v.", every)
	}
	return nil
}
