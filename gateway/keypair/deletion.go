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

// pollInterval is how often Run carries out deletions.
const pollInterval = 10 * time.Second

// poll calls f at once and then at every pollInterval, until ctx is done.
func poll(ctx context.Context, f func(context.Context)) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for ctx.Err() == nil {
		f(ctx)
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// CarryOutDeletions deletes the keys whose deletion is due, then destroys the orphans. It deletes
// all records of a key at once, so that the key can no longer be used or shown. The key's pairs are
// then orphans until the token has destroyed them. CarryOutDeletions logs failures, and its next
// call tries again. It does nothing while the audit log fails or lacks the line of a change.
func (p *Pairs) CarryOutDeletions(ctx context.Context) {
	if p.cfg.Audit.Err() != nil || p.cfg.Journal.Pending() {
		return // nothing is deleted or destroyed without an audit line
	}
	if err := p.DeleteDueKeys(); err != nil {
		p.cfg.Logger.Error("deleting a key whose deletion is due failed; retrying", "err", err)
		return // no key pair is destroyed without an audit line
	}
	for o := range p.cfg.Records.Now().Orphans().All() {
		if p.cfg.Audit.Err() != nil {
			return // the log has failed since the check above
		}
		err := p.destroyLeftOrphan(ctx, o)
		if err == nil {
			continue
		}
		p.cfg.Logger.Error("destroying a key pair that belongs to no key failed; retrying",
			"KeyVersionId", o.KeyVersionId, "err", err)
		if ctx.Err() != nil || !isHealthy(ctx, p) {
			return // destroying the next orphan would fail as well
		}
	}
}

// isHealthy reports whether the backend answers in time that it works.
func isHealthy(ctx context.Context, p *Pairs) bool {
	ctx, cancel := context.WithTimeout(ctx, testTimeout)
	defer cancel()
	return p.cfg.Backend.Health(ctx) == nil
}

// destroyLeftOrphan destroys a pair that was recorded as an orphan, if it still is one. It first
// checks that the pair is not being made, then that the orphan is still recorded. The order
// matters: Create marks a pair as being made before it records the orphan, and removes the mark
// after it has deleted the orphan. The second check changes records, so that it fails while the
// database cannot be written: the outcome of a creation may then not be known.
func (p *Pairs) destroyLeftOrphan(ctx context.Context, o store.Orphan) error {
	if _, making := p.making.Load(o.KeyVersionId); making {
		return nil
	}
	if err := p.freeze.enter(ctx); err != nil {
		return err
	}
	defer p.freeze.exit()
	var left bool
	err := p.cfg.Records.Update(func(tx *store.Tx) error {
		left = false // of an earlier attempt
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
	p.cfg.Logger.Info("destroyed a key pair that belongs to no key", "KeyVersionId", o.KeyVersionId, "since", o.Since)
	return nil
}

// DeleteDueKeys deletes the records of the keys whose deletion is due, and writes an audit line for
// each. The key pairs become orphans. DeleteDueKeys stops at the first error. It deletes nothing while
// the clock cannot be believed.
func (p *Pairs) DeleteDueKeys() error {
	now, problem := p.cfg.ReadClock()
	if problem != "" {
		return nil
	}
	for k := range p.cfg.Records.Now().Keys().All() {
		if k.DeleteWindow > 0 {
			if err := beginWindow(p, k.KeyId, now); err != nil {
				return fmt.Errorf("beginning the deletion window of key %q: %w", k.KeyId, err)
			}
		}
	}
	for _, keyId := range p.dueKeys(now) {
		if err := p.deleteKey(keyId, now); err != nil {
			return fmt.Errorf("deleting key %q: %w", keyId, err)
		}
	}
	return nil
}

// KeepDueKeys cancels the deletions that DeleteDueKeys would carry out, and writes an audit line by
// principal for each. It is for records restored from a backup, before a gateway serves them.
func KeepDueKeys(records *store.Store, log *audit.Log, principal string, now func() time.Time,
	logger *slog.Logger) error {
	changes, err := journal.Open(records, log, logger)
	if err != nil {
		return err
	}
	p := New(Config{Records: records, Journal: changes, Audit: log, Now: now, Logger: logger,
		ReadClock: func() (time.Time, string) { return now(), "" }})
	for _, keyId := range p.dueKeys(p.cfg.Now().UTC()) {
		if err := p.keepKey(keyId, principal); err != nil {
			return fmt.Errorf("cancelling the deletion of key %q: %w", keyId, err)
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
		k.KeyState, k.DeleteDate, k.DeleteWindow = store.Enabled, time.Time{}, 0
		return tx.Keys().Put(k)
	})
}

// beginWindow makes the deletion window of a key begin now. It was scheduled when the clock could not be
// believed.
func beginWindow(p *Pairs, keyId string, now time.Time) error {
	err := p.change(p.entry("ScheduleKeyDeletion", keyId, GatewayPrincipal), func(tx *store.Tx) error {
		k, err := tx.Keys().Get(keyId)
		if err != nil || k.DeleteWindow == 0 {
			return errNotDue // cancelled or deleted by now
		}
		k.DeleteDate, k.DeleteWindow = now.UTC().Add(k.DeleteWindow), 0
		return tx.Keys().Put(k)
	})
	if errors.Is(err, errNotDue) {
		return nil
	}
	return err
}

// Due returns the number of keys whose deletion is due.
func (p *Pairs) Due() int { return len(p.dueKeys(p.cfg.Now().Round(0))) }

func (p *Pairs) dueKeys(now time.Time) (due []string) {
	for k := range p.cfg.Records.Now().Keys().All() {
		if IsDue(k, now) {
			due = append(due, k.KeyId)
		}
	}
	return due
}

var errNotDue = errors.New("the key is no longer due for deletion")

// IsDue reports whether the deletion of a key is due: the key is PendingDeletion, and its
// DeleteDate is not after now. It is not due while its window has not begun.
func IsDue(k store.Key, now time.Time) bool {
	return k.KeyState == store.PendingDeletion && k.DeleteWindow == 0 && !k.DeleteDate.After(now)
}

// deleteKey deletes the records of a key if it is still due, and writes an audit line as an
// operation does.
func (p *Pairs) deleteKey(keyId string, now time.Time) error {
	err := p.change(p.entry(DeleteKey, keyId, GatewayPrincipal), func(tx *store.Tx) error {
		k, err := tx.Keys().Get(keyId)
		if err != nil || !IsDue(k, now) {
			return errNotDue // cancelled or deleted since dueKeys
		}
		return tx.Keys().Delete(keyId)
	})
	if errors.Is(err, errNotDue) {
		return nil
	}
	return err
}

// DeleteKey is the action in the audit line of a deletion that was due.
const DeleteKey = "DeleteKey"

// GatewayPrincipal is the principal in the audit log for actions that the gateway takes by itself.
// No user can have this name.
const GatewayPrincipal = "kmsgate"

// entry returns the audit line of a successful action that no request asked for.
func (p *Pairs) entry(action, keyId, principal string) audit.Entry {
	return audit.Entry{
		Time:      p.cfg.Now().UTC(),
		RequestId: uuid.NewString(),
		Door:      "local",
		Principal: principal,
		Action:    action,
		KeyId:     keyId,
		Status:    http.StatusOK,
	}
}

// change makes a change and writes its audit line. A change that fails gets an audit line, too,
// unless the error is errNotDue.
func (p *Pairs) change(entry audit.Entry, f func(tx *store.Tx) error) error {
	err := p.cfg.Journal.Update(&entry, f)
	if errors.Is(err, errNotDue) {
		return err
	}
	if err != nil {
		answer := kms.ErrInternal
		if errors.Is(err, store.ErrUnwritable) || errors.Is(err, store.ErrUncertain) {
			answer = kms.ErrUnavailable
		}
		entry.Status, entry.Code = answer.Status, answer.Code
		entry.Reason = kms.ClipTo(kms.MaxReason, err.Error())
		return errors.Join(err, p.cfg.Audit.Append(entry))
	}
	entry.DurationNanoseconds = p.cfg.Now().Sub(entry.Time)
	return p.cfg.Journal.Append(entry)
}
