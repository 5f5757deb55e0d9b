package gateway

import (
	"fmt"
	"net/http"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/store"
)

// update is for an operation that changes records and nothing else. It tries f on the
// records as the call sees them, so that whatever would be refused is refused before
// the point of no return, in a dry run too; then it confirms, and does f for good. f is
// called twice, the second time with the records as they are then.
func (c *call) update(f func(tx *store.Tx) error) error {
	if err := c.records.Try(f); err != nil {
		return err
	}
	if err := c.confirm(); err != nil {
		return err
	}
	return c.write(f)
}

// confirm is the point of no return: everything before it only looks, and after
// it nothing but a fault can keep the operation from succeeding. A dry run
// ends here. So does everything while the audit log cannot be written.
func (c *call) confirm() error {
	c.confirmed = true
	if err := c.server.Audit.Err(); err != nil {
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
	err := c.server.journal.Update(entry, c.withNonce(f))
	c.changed = c.changed || err == nil
	return err
}

// record writes down what a confirmed call is going to do, which is nothing that
// anybody can see: it needs no audit line yet.
func (c *call) record(f func(tx *store.Tx) error) error {
	if err := c.mayWrite(); err != nil {
		return err
	}
	return c.server.Store.Update(c.withNonce(f))
}

func (c *call) mayWrite() error {
	if !c.confirmed || c.dryRun {
		return fmt.Errorf("the operation %s changes records without having confirmed", c.action)
	}
	return nil
}

func (c *call) withNonce(f func(tx *store.Tx) error) func(tx *store.Tx) error {
	return func(tx *store.Tx) error {
		if c.nonce != nil {
			if err := tx.PutNonce(*c.nonce, c.now); err != nil {
				return err
			}
		}
		return f(tx)
	}
}
