package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"

	"github.com/kmsgate/kmsgate/gateway/keypair"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/sealed"
	"github.com/kmsgate/kmsgate/store"
)

// openPair opens the database and the token, which must belong together. It opens the
// database first: once the database belongs to an instance, nothing is created in the token,
// which might be another instance's. It also creates the database first: a token with keys
// but no database then belongs to an instance that has lost its database. The token unseals the
// database.
func (a *Appliance) openPair(ctx context.Context) (err error) {
	database, err := a.openDatabase(ctx)
	if err != nil {
		return err
	}
	complete := database.Complete()
	if err := a.openToken(complete); err != nil {
		return errors.Join(err, database.Close())
	}
	if err := checkSealed(ctx, a, database); err != nil {
		return errors.Join(err, database.Close())
	}
	if a.Store, err = database.Unseal(ctx, a.token, store.Options{}); err != nil {
		return explainSealed(a, err)
	}
	a.OnClose("the database", a.Store.Close)
	reportMigration(a.options.Logger, a.Store)
	if !complete { // the token may have the number of an earlier instance; the last init can have been killed
		if err := catchUpToken(ctx, a); err != nil {
			return err
		}
	}
	if err := a.ensureAuditKey(ctx); err != nil {
		return err
	}
	return a.checkToken(ctx)
}

// openToken opens the token. With Provision it creates what the token lacks, unless the database is complete.
func (a *Appliance) openToken(complete bool) (err error) {
	// The connection can be lost before there is a backend whose keys to drop.
	var software atomic.Pointer[sealed.Backend]
	a.token, err = a.device.Open(a.options.Provision && !complete, func() {
		if s := software.Load(); s != nil {
			s.DropAll()
		}
	})
	if complete && errors.Is(err, hsm.ErrNotOurs) {
		return fmt.Errorf("%w; the database %q needs the token that it was created with (%s)",
			err, a.Config.Store.File, lostTokenHint)
	} else if err != nil {
		return err
	}
	software.Store(sealed.New(a.token))
	a.keys = hsm.Route{Token: a.token, Sealed: software.Load(), Logger: a.options.Logger}
	if a.options.Given != nil {
		a.keys = importing(a.token, software.Load(), a.options)
	}
	a.OnClose("the token", a.token.Close)
	return nil
}

// explainSealed adds advice to the error of a database that the token does not unseal although it works.
func explainSealed(a *Appliance, err error) error {
	if !errors.Is(err, store.ErrSealed) || hsm.IsTransient(err) {
		return err
	}
	return foreign(a, fmt.Errorf("%w: %w", keypair.ErrForeignToken, err))
}

// foreign adds advice to an error for a token that does not belong to the database.
func foreign(a *Appliance, err error) error {
	return fmt.Errorf("%w; nothing was changed; the configuration names %s and the database %q (%s)",
		err, a.device, a.Config.Store.File, lostTokenHint)
}

// openDatabase opens the database, still sealed. With Provision it creates a missing database, unless
// there are leftovers of another instance.
func (a *Appliance) openDatabase(ctx context.Context) (_ *store.File, err error) {
	path := a.Config.Store.File
	var database *store.File
	defer func() {
		if err != nil && database != nil {
			err = errors.Join(err, database.Close())
		}
	}()
	if info, statErr := os.Stat(path); statErr == nil && info.Size() > 0 {
		if database, err = store.OpenFile(path); err != nil {
			return nil, err
		}
	}
	ours, err := a.checkInstance(database)
	switch {
	case err != nil:
		return nil, err
	case ours && database.Complete():
		return database, nil
	case ours && !a.options.Provision:
		return nil, ErrNotInitialized // an init was interrupted
	case !a.options.Provision:
		return nil, a.explainMissing(ctx)
	case ours && database.Started():
		return database, nil // an init was interrupted; the token proves that it is the right one
	}
	if err := a.checkUnused(ctx, ours); err != nil {
		return nil, err
	}
	if database == nil {
		if database, err = store.OpenFile(path); err != nil {
			return nil, err
		}
	}
	return database, database.SetInstance(a.identity())
}

// reportMigration logs that opening a database has migrated it, if it has.
func reportMigration(logger *slog.Logger, s *store.Store) {
	if from, copied := s.Migrated(); from > 0 {
		logger.Warn("the database was migrated", "from", from, "to", store.SchemaVersion, "copy", copied,
			"advice", "keep the copy until you are sure that you will not go back to the earlier kmsgate, then remove it")
	}
}

// checkInstance reports whether the database belongs to the configuration's instance. It
// returns an error if the database belongs to another instance.
func (a *Appliance) checkInstance(database *store.File) (ours bool, err error) {
	if database == nil {
		return false, nil
	}
	found, want := database.Instance(), a.identity()
	if found != want && found != (store.Instance{}) {
		err = fmt.Errorf("the database %q belongs to instance %q, region %q, account %q, "+
			"but the configuration has instance %q, region %q, account %q (correct the configuration)",
			a.Config.Store.File, found.InstanceId, found.RegionId, found.AccountId,
			want.InstanceId, want.RegionId, want.AccountId)
	}
	return found == want, err
}

const lostTokenHint = "name the right token in the configuration; if it is lost, restore token and database from a " +
	"backup with `kmsgate restore`"

// checkToken refuses a token that does not belong to the database, before anything is done
// with either.
func (a *Appliance) checkToken(ctx context.Context) error {
	err := keypair.MatchesToken(ctx, a.Store, a.keys, a.token)
	if errors.Is(err, keypair.ErrForeignToken) {
		return foreign(a, err)
	}
	return err
}
