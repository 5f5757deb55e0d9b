package gateway

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/store"
)

// update makes a change: it prepares f, then runs f on the current records and writes the
// result. It calls f twice.
func (c *call) update(f func(tx *store.Tx) error) error {
	if err := c.prepare(f); err != nil {
		return err
	}
	return c.write(f)
}

// prepare tries f on the records that the call sees, and then confirms. This refuses an
// invalid change before the point of no return, in a dry run too. An operation that has
// work to do between confirming and writing calls prepare and write instead of update.
func (c *call) prepare(f func(tx *store.Tx) error) error {
	if err := c.records.Try(f); err != nil {
		return err
	}
	return c.confirm()
}

// updateKey changes the record of the key that a request names.
func (c *call) updateKey(name string, change func(k *store.Key) error) error {
	key, err := c.key(name)
	if err != nil {
		return err
	}
	return c.updateKeys([]permitted{key}, change)
}

// updateKeys changes the records of permitted keys, all or none. The transaction sees the
// current records, so that concurrent changes of one key follow one another.
func (c *call) updateKeys(keys []permitted, change func(k *store.Key) error) error {
	return c.update(func(tx *store.Tx) error {
		for _, key := range keys {
			k, err := currentKey(tx.Records, key)
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

// newPermitted returns a new key, and the function that writes its record. The function
// refuses the key if there are MaxKeys already.
func newPermitted(c *call, key store.Key) (permitted, func(tx *store.Tx) error) {
	return permitted{key}, func(tx *store.Tx) error {
		if tx.Keys().Len() >= c.server.config.MaxKeys {
			return kms.ErrLimitExceeded.Because("There are %d keys already.", c.server.config.MaxKeys)
		}
		return tx.Keys().Create(key)
	}
}

// confirm is the point of no return. Before it, an operation only reads and checks. After
// it, only a fault can prevent success. A dry run ends here. Every call ends here while the
// audit log cannot be written.
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

// write changes records on behalf of a confirmed call. It stores the nonce in the same
// transaction, so that the request cannot be repeated even after a restart. It also stores
// the audit line there, so that no change lacks one. The caller must therefore complete
// c.entry before it calls write.
func (c *call) write(f func(tx *store.Tx) error) error {
	if err := c.checkConfirmed(); err != nil {
		return err
	}
	entry := c.entry
	entry.Status = http.StatusOK
	err := c.server.journal.Update(&entry, withNonce(c, f))
	if err == nil {
		c.changed, c.nonce, c.entry.Change = true, nil, entry.Change
	}
	return err
}

// record writes what a confirmed call is about to do. No caller can see that yet, so it
// needs no audit line.
func (c *call) record(f func(tx *store.Tx) error) error {
	if err := c.checkConfirmed(); err != nil {
		return err
	}
	err := c.server.config.Store.Update(withNonce(c, f))
	if err == nil {
		c.nonce = nil
	}
	return err
}

// checkConfirmed returns an error unless the call has confirmed and may write.
func (c *call) checkConfirmed() error {
	if !c.confirmed || c.dryRun {
		return fmt.Errorf("operation %q tried to change records without confirming", c.action)
	}
	return nil
}

// withNonce returns a function that stores the call's nonce, unless there is none or it is stored, and
// calls f.
func withNonce(c *call, f func(tx *store.Tx) error) func(tx *store.Tx) error {
	return func(tx *store.Tx) error {
		if claim := c.nonce; claim != nil {
			// The record must not keep the whole request in memory.
			n := store.Nonce{AccessKeyId: strings.Clone(claim.AccessKeyId), Nonce: strings.Clone(claim.Nonce),
				Until: claim.Time.Add(identity.TimeWindow)}
			if err := tx.PutNonce(n, forgetNonces(c.server)); err != nil {
				return err
			}
		}
		return f(tx)
	}
}

// checkNewVersion refuses another version of a key that has maxVersions already, or whose
// last version is younger than MinVersionInterval.
func checkNewVersion(c *call, records *store.Records, key permitted) error {
	versions := records.VersionsOf(key.KeyId)
	if len(versions) >= maxVersions {
		return kms.ErrLimitExceeded.Because("The key has %d versions already.", maxVersions)
	}
	minInterval := c.server.config.MinVersionInterval
	if minInterval > 0 && len(versions) > 0 && c.now.Before(versions[len(versions)-1].CreationDate.Add(minInterval)) {
		return kms.ErrRejectedUnsupported.Because("A key can have a new version every %v.", minInterval)
	}
	return nil
}
