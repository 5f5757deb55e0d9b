package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/store"
)

// updateKey changes a key's record in a transaction that sees the record as it
// is then, so that concurrent changes of one key are one after the other.
func (c *call) updateKey(name string, change func(k *store.Key) error) error {
	key, err := c.key(name)
	if err != nil {
		return err
	}
	return c.update(func(tx *store.Tx) error {
		now, err := tx.Keys().Get(key.KeyId)
		if errors.Is(err, store.ErrNotFound) {
			return kms.ErrKeyNotFound
		}
		if err != nil {
			return err
		}
		if err := change(&now); err != nil {
			return err
		}
		return tx.Keys().Put(now)
	})
}

// retireKey is updateKey for a change after which the key does not sign any more:
// nothing is kept that would make it sign faster.
func (c *call) retireKey(name string, change func(k *store.Key) error) error {
	if err := c.updateKey(name, change); err != nil {
		return err
	}
	c.server.forgetKey(c.entry.KeyId)
	return nil
}

// done gives an emptyResponse if there is no error.
func done(err error) (*kms.EmptyResponse, error) {
	if err != nil {
		return nil, err
	}
	return new(kms.EmptyResponse), nil
}

func enableKey(_ context.Context, c *call, req *kms.KeyRequest) (*kms.EmptyResponse, error) {
	return done(c.updateKey(req.KeyId, func(k *store.Key) error { return setState(k, store.Enabled) }))
}

func disableKey(_ context.Context, c *call, req *kms.KeyRequest) (*kms.EmptyResponse, error) {
	return done(c.retireKey(req.KeyId, func(k *store.Key) error { return setState(k, store.Disabled) }))
}

// setState moves a key between Enabled and Disabled; from any other state there
// is no such way.
func setState(k *store.Key, state string) error {
	if k.KeyState != store.Enabled && k.KeyState != store.Disabled {
		return kms.ErrStateModifiedFailed.Because("The key state is %s.", k.KeyState)
	}
	k.KeyState = state
	return nil
}

// The days after which a key can be scheduled to be deleted.
const (
	minPendingDays = 7
	maxPendingDays = 366
)

func scheduleKeyDeletion(_ context.Context, c *call, req *kms.ScheduleKeyDeletionRequest) (*kms.EmptyResponse, error) {
	days := *req.PendingWindowInDays
	if days < minPendingDays || days > maxPendingDays {
		return nil, kms.InvalidParameter("PendingWindowInDays", "%d is not %d to %d", days, minPendingDays, maxPendingDays)
	}
	return done(c.retireKey(req.KeyId, func(k *store.Key) error {
		switch {
		case k.KeyState != store.Enabled && k.KeyState != store.Disabled && k.KeyState != store.PendingImport:
			return kms.ErrStateModifiedFailed.Because("The key state is %s.", k.KeyState)
		case k.Protected:
			return kms.ErrStateModifiedFailed.Because("The key is protected from deletion.")
		}
		k.KeyState = store.PendingDeletion
		k.DeleteDate = c.now.Add(time.Duration(days) * 24 * time.Hour)
		return nil
	}))
}

func cancelKeyDeletion(_ context.Context, c *call, req *kms.KeyRequest) (*kms.EmptyResponse, error) {
	return done(c.updateKey(req.KeyId, func(k *store.Key) error {
		if k.KeyState != store.PendingDeletion {
			return kms.ErrStateModifiedFailed.Because("The key state is %s.", k.KeyState)
		}
		k.KeyState, k.DeleteDate = store.Enabled, time.Time{}
		return nil
	}))
}

func setDeletionProtection(_ context.Context, c *call, req *kms.SetDeletionProtectionRequest) (*kms.EmptyResponse, error) {
	name := req.ProtectedResourceArn
	switch {
	case name == "" && req.KeyId == "":
		return nil, kms.MissingParameter("ProtectedResourceArn")
	case name != "" && req.KeyId != "":
		return nil, kms.InvalidParameter("ProtectedResourceArn", "there is a KeyId too: send one")
	case name == "":
		name = req.KeyId
	case !strings.HasPrefix(name, c.server.arns.Resource("key/")):
		return nil, kms.InvalidParameter("ProtectedResourceArn", "it is not the ARN of a key")
	}
	if err := checkDescription("DeletionProtectionDescription", req.DeletionProtectionDescription); err != nil {
		return nil, err
	}
	return done(c.updateKey(name, func(k *store.Key) error {
		if k.KeyState == store.PendingDeletion {
			return kms.ErrKeyPendingDeletion
		}
		k.Protected, k.ProtectedWhy = *req.EnableDeletionProtection, ""
		if k.Protected {
			k.ProtectedWhy = req.DeletionProtectionDescription
		}
		return nil
	}))
}

func updateKeyDescription(_ context.Context, c *call, req *kms.UpdateKeyDescriptionRequest) (*kms.EmptyResponse, error) {
	if err := checkDescription("Description", req.Description); err != nil {
		return nil, err
	}
	return done(c.updateKey(req.KeyId, func(k *store.Key) error {
		k.Description = req.Description
		return nil
	}))
}

// tendEvery is how often Serve looks for what is due.
const tendEvery = 10 * time.Second

// every calls f at once and then every tendEvery, until ctx is done.
func every(ctx context.Context, f func(context.Context)) {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		f(ctx)
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// CarryOutDeletions deletes the keys whose time has come and destroys key pairs
// that belong to no version. A key's records go first, all at once, so that it
// can no longer be used or shown; its key pairs are then orphans, and stay
// recorded as such until the token has destroyed them. Serve calls it while it
// runs; what fails is tried again.
func (s *Server) CarryOutDeletions(ctx context.Context) {
	if s.Audit.Err() != nil || s.journal.Pending() {
		return // without its audit line nothing is deleted or destroyed
	}
	if err := s.deleteDueKeys(); err != nil {
		s.Logger.Error("a key whose deletion is due is not deleted; trying again", "reason", err)
		return // without its audit line no key pair is destroyed
	}
	for o := range s.Store.Now().Orphans().All() {
		err := s.destroyLeftOrphan(ctx, o)
		if err == nil {
			continue
		}
		s.Logger.Error("a key pair that belongs to no key is not destroyed; trying again", "KeyVersionId", o.KeyVersionId, "reason", err)
		if ctx.Err() != nil || s.Backend.Health(ctx) != nil {
			return // the next one would fare no better
		}
	}
}

// destroyLeftOrphan destroys a key pair that was an orphan a while ago, if it
// still is one. While it is being made it is not, and made it is not either: so
// first nobody must be making it, and then the record must still be there. In that
// order: a creation is marked before its record is written, and until after the
// record is gone. The record is looked for in a change, which fails where a change
// may be lost.
func (s *Server) destroyLeftOrphan(ctx context.Context, o store.Orphan) error {
	if _, making := s.making.Load(o.KeyVersionId); making {
		return nil
	}
	if err := s.pairs.enter(ctx); err != nil {
		return err
	}
	defer s.pairs.leave()
	left := false
	err := s.Store.Update(func(tx *store.Tx) error {
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
	if err := s.destroyOrphan(ctx, o); err != nil {
		return err
	}
	s.Logger.Info("a key pair that belongs to no key was destroyed", "KeyVersionId", o.KeyVersionId, "since", o.Since)
	return nil
}

// deleteDueKeys deletes the records of the keys whose time has come.
func (s *Server) deleteDueKeys() error {
	now := s.Now().UTC()
	for _, keyId := range s.dueKeys(now) {
		if err := s.deleteKey(keyId, now); err != nil {
			return fmt.Errorf("deleting key %s: %w", keyId, err)
		}
	}
	return nil
}

// keepDueKeys cancels the deletions that deleteDueKeys would carry out.
func (s *Server) keepDueKeys(ctx context.Context) error {
	for _, keyId := range s.dueKeys(s.Now().UTC()) {
		if err := s.Call(ctx, "CancelKeyDeletion", map[string]string{"KeyId": keyId}, nil); err != nil {
			return fmt.Errorf("keeping key %s: %w", keyId, err)
		}
	}
	return nil
}

func (s *Server) dueKeys(now time.Time) (due []string) {
	for k := range s.Store.Now().Keys().All() {
		if isDue(k, now) {
			due = append(due, k.KeyId)
		}
	}
	return due
}

var errNotDue = errors.New("the key is not to be deleted any more")

func isDue(k store.Key, now time.Time) bool {
	return k.KeyState == store.PendingDeletion && !k.DeleteDate.After(now)
}

// deleteKey deletes the records of a key that is still due. It leaves an audit
// line, as an operation would.
func (s *Server) deleteKey(keyId string, now time.Time) error {
	c := s.newCall(localDoor, "")
	c.action, c.entry.Action, c.entry.KeyId, c.entry.Principal = "DeleteKey", "DeleteKey", keyId, ownName
	c.entry.Status = http.StatusOK
	err := s.journal.Update(c.entry, func(tx *store.Tx) error {
		k, err := tx.Keys().Get(keyId)
		if err != nil || !isDue(k, now) {
			return errNotDue // cancelled, or deleted, meanwhile
		}
		return tx.Keys().Delete(keyId)
	})
	if errors.Is(err, errNotDue) {
		return nil
	}
	c.changed = err == nil
	if _, api := c.finish(new(kms.EmptyResponse), err); api != nil {
		return api
	}
	return nil
}
