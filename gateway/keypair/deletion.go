package keypair

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/journal"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/store"
)

// lookEvery is how often Run looks for what is due.
const lookEvery = 10 * time.Second

// every calls f at once and then every lookEvery, until ctx is done.
func every(ctx context.Context, f func(context.Context)) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		f(ctx)
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// CarryOutDeletions deletes the keys whose deletion is due, then destroys the orphans. It
// deletes all records of a key at once, so that the key can no longer be used or shown.
// Its key pairs are then orphans until the token has destroyed them. CarryOutDeletions
// logs what fails, and the next call tries it again. It does nothing while the audit log
// fails or lacks the line of a change.
func (p *Pairs) CarryOutDeletions(ctx context.Context) {
	if p.cfg.Audit.Err() != nil || p.cfg.Journal.Pending() {
		return // without its audit line nothing is deleted or destroyed
	}
	if err := p.DeleteDueKeys(); err != nil {
		p.cfg.Logger.Error("a key whose deletion is due is not deleted; trying again", "reason", err)
		return // without its audit line no key pair is destroyed
	}
	for o := range p.cfg.Records.Now().Orphans().All() {
		if p.cfg.Audit.Err() != nil {
			return // it failed meanwhile
		}
		err := p.destroyLeftOrphan(ctx, o)
		if err == nil {
			continue
		}
		p.cfg.Logger.Error("a key pair that belongs to no key is not destroyed; trying again", "KeyVersionId", o.KeyVersionId, "reason", err)
		if ctx.Err() != nil || p.cfg.Backend.Health(ctx) != nil {
			return // the next one would fare no better
		}
	}
}

// destroyLeftOrphan destroys a key pair that was an orphan a while ago, if it still is one.
// It first checks that nobody is making the pair, then that the record is still there. The
// order matters: a creation is marked before its record is written, and stays marked until
// after the record is gone. Looking for the record is a change of records, so that it
// fails after an ErrUncertain.
func (p *Pairs) destroyLeftOrphan(ctx context.Context, o store.Orphan) error {
	if _, making := p.making.Load(o.KeyVersionId); making {
		return nil
	}
	if err := p.freeze.enter(ctx); err != nil {
		return err
	}
	defer p.freeze.leave()
	left := false
	err := p.cfg.Records.Update(func(tx *store.Tx) error {
		now, err := tx.Orphans().Get(o.KeyVersionId)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		left = true
		return errors.Join(err, tx.Orphans().Put(now))
	})
	if err != nil || !left {
		return err
	}
	if err := p.destroy(ctx, o); err != nil {
		return err
	}
	p.cfg.Logger.Info("a key pair that belongs to no key was destroyed", "KeyVersionId", o.KeyVersionId, "since", o.Since)
	return nil
}

// DeleteDueKeys deletes the records of the keys whose deletion is due, each with an audit
// line. It stops at the first error. Their key pairs become orphans.
func (p *Pairs) DeleteDueKeys() error {
	now := p.cfg.Now().UTC()
	for _, keyId := range p.dueKeys(now) {
		if err := p.deleteKey(keyId, now); err != nil {
			return fmt.Errorf("deleting key %s: %w", keyId, err)
		}
	}
	return nil
}

// KeepDueKeys cancels the deletions that DeleteDueKeys would carry out, each with an audit
// line for principal. It is for the records of a backup, which no gateway serves yet.
func KeepDueKeys(records *store.Store, log *audit.Log, principal string, now func() time.Time, logger *slog.Logger) error {
	changes, err := journal.Open(records, log, logger)
	if err != nil {
		return err
	}
	p := New(Config{Records: records, Journal: changes, Audit: log, Now: now, Logger: logger})
	for _, keyId := range p.dueKeys(p.cfg.Now().UTC()) {
		if err := p.keepKey(keyId, principal); err != nil {
			return fmt.Errorf("keeping key %s: %w", keyId, err)
		}
	}
	changes.Flush()
	return nil
}

func (p *Pairs) keepKey(keyId, principal string) error {
	return p.change(p.entry("CancelKeyDeletion", keyId, principal), func(tx *store.Tx) error {
		k, err := tx.Keys().Get(keyId)
		if err != nil {
			return err
		}
		k.KeyState, k.DeleteDate = store.Enabled, time.Time{}
		return tx.Keys().Put(k)
	})
}

func (p *Pairs) dueKeys(now time.Time) (due []string) {
	for k := range p.cfg.Records.Now().Keys().All() {
		if IsDue(k, now) {
			due = append(due, k.KeyId)
		}
	}
	return due
}

var errNotDue = errors.New("the key is not to be deleted any more")

// IsDue reports whether a key is to be deleted: it is PendingDeletion, and its DeleteDate is
// not after now.
func IsDue(k store.Key, now time.Time) bool {
	return k.KeyState == store.PendingDeletion && !k.DeleteDate.After(now)
}

// deleteKey deletes the records of a key that is still due, with an audit line, as an
// operation does.
func (p *Pairs) deleteKey(keyId string, now time.Time) error {
	err := p.change(p.entry("DeleteKey", keyId, OwnName), func(tx *store.Tx) error {
		k, err := tx.Keys().Get(keyId)
		if err != nil || !IsDue(k, now) {
			return errNotDue // cancelled, or deleted, meanwhile
		}
		return tx.Keys().Delete(keyId)
	})
	if errors.Is(err, errNotDue) {
		return nil
	}
	return err
}

// OwnName is the principal of what the gateway does by itself, in the audit log. No user
// can have this name.
const OwnName = "kmsgate"

// entry returns the audit line of an action that no request asked for.
func (p *Pairs) entry(action, keyId, principal string) audit.Entry {
	return audit.Entry{Time: p.cfg.Now().UTC(), RequestId: uuid.NewString(), Door: "local", Principal: principal, Action: action, KeyId: keyId, Status: http.StatusOK}
}

// change makes a change with its line. One that fails has a line, too, unless there was
// nothing to do.
func (p *Pairs) change(entry audit.Entry, f func(tx *store.Tx) error) error {
	err := p.cfg.Journal.Update(entry, f)
	if errors.Is(err, errNotDue) {
		return err
	}
	if err != nil {
		entry.Status, entry.Code, entry.Reason = kms.ErrInternal.Status, kms.ErrInternal.Code, kms.ClipTo(kms.MaxReason, err.Error())
		return errors.Join(err, p.cfg.Audit.Append(entry))
	}
	entry.Duration = p.cfg.Now().Sub(entry.Time)
	return p.cfg.Journal.Append(entry)
}
