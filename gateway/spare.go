package gateway

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// spareSpec is the KeySpec of the key pair that is made ahead: making one takes
// seconds, and Node's SDKs give up after 3 s.
const spareSpec = hsm.RSA_4096

// keepSpare is KeepSpare for as long as the gateway runs.
func (s *Server) keepSpare(ctx context.Context) {
	if err := s.KeepSpare(ctx); err != nil && !errors.Is(err, hsm.ErrKeySpec) {
		s.Logger.Warn("there is no spare key pair; trying again", "reason", err)
	}
}

// KeepSpare makes a spare key pair if there is none. Serve calls it while it
// runs, if Config.Spare says so.
func (s *Server) KeepSpare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), createTimeout(spareSpec))
	defer cancel()
	if err := s.pairs.enter(ctx); err != nil {
		return err
	}
	defer s.pairs.leave()
	wanted := true
	id := uuid.New()
	o := store.Orphan{KeyVersionId: id.String(), Since: s.Now().UTC(), Key: hsm.Key{ID: id[:], Spec: spareSpec}}
	s.making.Store(o.KeyVersionId, true)
	defer s.making.Delete(o.KeyVersionId)
	err := s.Store.Update(func(tx *store.Tx) error {
		for _, other := range tx.Orphans() {
			if other.Key.Spec == spareSpec { // a spare, or one that failed and is to be destroyed first
				wanted = false
				return nil
			}
		}
		return tx.PutOrphan(o)
	})
	if err != nil || !wanted {
		return err
	}
	if o.Key, err = s.Backend.Generate(ctx, spareSpec, id[:]); err != nil {
		return fmt.Errorf("making a spare key pair: %w", err) // what there is of it is an orphan
	}
	o.Spare = true
	return s.Store.Update(func(tx *store.Tx) error { return tx.PutOrphan(o) })
}

// spare gives the spare key pair, if there is one.
func (s *Server) spare() (o store.Orphan, ok bool) {
	_ = s.Store.View(func(tx *store.Tx) error {
		o, ok = spareIn(tx)
		return nil
	})
	return o, ok
}

func spareIn(tx *store.Tx) (store.Orphan, bool) {
	for _, o := range tx.Orphans() {
		if o.Spare {
			return o, true
		}
	}
	return store.Orphan{}, false
}

// versionOfSpare makes a version of the spare key pair, in one transaction, if
// there is one of the key's KeySpec, and if it signs: it may have been made long
// ago.
func (c *call) versionOfSpare(ctx context.Context, key store.Key, allowed, also func(tx *store.Tx) error) (version store.KeyVersion, made bool, err error) {
	spare, ok := c.server.spare()
	if !ok || spare.Key.Spec != key.KeySpec {
		return version, false, nil
	}
	testing, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	if err := hsm.SelfTest(testing, c.server.Backend, spare.Key); err != nil {
		if isTransient(err) || testing.Err() != nil {
			return version, true, err
		}
		return version, false, c.begin(func(tx *store.Tx) error {
			o, ok := spareIn(tx)
			if !ok || o.KeyVersionId != spare.KeyVersionId {
				return nil // another call took it, and found that it signs: it is a key's now
			}
			o.Spare = false // to be destroyed; this key gets a new pair
			return tx.PutOrphan(o)
		})
	}
	c.entry.KeyId, c.entry.KeyVersionId = key.KeyId, spare.KeyVersionId
	err = c.change(func(tx *store.Tx) error {
		o, ok := spareIn(tx)
		if made = ok && o.KeyVersionId == spare.KeyVersionId; !made {
			return errSpareTaken
		}
		if err := allowed(tx); err != nil {
			return err
		}
		version = store.KeyVersion{KeyId: key.KeyId, KeyVersionId: o.KeyVersionId, CreationDate: c.now, Key: o.Key}
		if err := tx.DeleteOrphan(o.KeyVersionId); err != nil {
			return err
		}
		if err := also(tx); err != nil {
			return err
		}
		return tx.PutKeyVersion(version)
	})
	if errors.Is(err, errSpareTaken) {
		return version, false, nil
	}
	return version, made || err != nil, err
}

var errSpareTaken = errors.New("another call was quicker")
