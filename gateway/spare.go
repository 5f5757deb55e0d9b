package gateway

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// spareSpec is the KeySpec of the key pair that is made ahead: making one takes
// seconds, and Node's SDKs give up after 3 s.
const spareSpec = hsm.RSA_4096

// KeepSpare makes a spare key pair if there is none. Serve calls it while it
// runs, if Config.Spare says so.
func (s *Server) KeepSpare(ctx context.Context) error {
	if _, ok := s.spare(); ok {
		return nil
	}
	id := uuid.New()
	o := store.Orphan{KeyVersionId: id.String(), Since: s.Now().UTC(), Key: hsm.Key{ID: id[:], Spec: spareSpec}}
	s.making.Store(o.KeyVersionId, true)
	defer s.making.Delete(o.KeyVersionId)
	if err := s.Store.Update(func(tx *store.Tx) error { return tx.PutOrphan(o) }); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), createTimeout(spareSpec))
	defer cancel()
	var err error
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
// there is one of the key's KeySpec.
func (c *call) versionOfSpare(key store.Key, allowed, also func(tx *store.Tx) error) (version store.KeyVersion, made bool, err error) {
	if o, ok := c.server.spare(); !ok || o.Key.Spec != key.KeySpec {
		return version, false, nil
	}
	err = c.change(func(tx *store.Tx) error {
		o, ok := spareIn(tx)
		if made = ok; !ok {
			return nil // another call was quicker
		}
		if err := allowed(tx); err != nil {
			return err
		}
		version = store.KeyVersion{KeyId: key.KeyId, KeyVersionId: o.KeyVersionId, CreationDate: c.now, Key: o.Key}
		if err := tx.DeleteOrphan(o.KeyVersionId); err != nil {
			return err
		}
		if err := tx.PutKeyVersion(version); err != nil {
			return err
		}
		return also(tx)
	})
	c.entry.KeyId, c.entry.KeyVersionId = key.KeyId, version.KeyVersionId
	return version, made || err != nil, err
}
