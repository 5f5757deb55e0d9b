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
// but no database then belongs to an instance that has lost its database.
func (a *Appliance) openPair(ctx context.Context) (err error) {
	if err := a.openDatabase(ctx); err != nil {
		return err
	}
	complete := a.hasAuditKey()
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
	if err := a.ensureAuditKey(ctx); err != nil {
		return err
	}
	return a.checkToken(ctx)
}

// openDatabase opens the database. With Provision it creates a missing database, unless
// there are leftovers of another instance.
func (a *Appliance) openDatabase(ctx context.Context) error {
	path := a.Config.Store.File
	open := func() (err error) {
		if a.Store, err = store.Open(path); err != nil {
			return err
		}
		a.OnClose("the database", a.Store.Close)
		ReportMigration(a.options.Logger, a.Store)
		return nil
	}
	if info, err := os.Stat(path); err == nil && info.Size() > 0 {
		if err := open(); err != nil {
			return err
		}
	}
	started, err := a.checkInstance()
	switch {
	case err != nil:
		return err
	case started && a.hasAuditKey():
		return nil
	case started && !a.options.Provision:
		return ErrNotInitialized // an init was interrupted
	case !a.options.Provision:
		return a.explainMissing(ctx)
	}
	if err := a.checkUnused(ctx, started); err != nil {
		return err
	}
	if a.Store == nil {
		if err := open(); err != nil {
			return err
		}
	}
	return a.Store.Update(func(tx *store.Tx) error { return tx.SetInstance(a.identity()) })
}

// ReportMigration logs that opening a database has migrated it, if it has.
func ReportMigration(logger *slog.Logger, s *store.Store) {
	if from, copied := s.Migrated(); from > 0 {
		logger.Warn("the database was migrated", "from", from, "to", store.SchemaVersion, "copy", copied,
			"advice", "keep the copy until you are sure that you will not go back to the earlier kmsgate, then remove it")
	}
}

// checkInstance reports whether the database belongs to the configuration's instance. It
// returns an error if the database belongs to another instance.
func (a *Appliance) checkInstance() (exists bool, err error) {
	if a.Store == nil {
		return false, nil
	}
	found, want := a.Store.Now().Instance(), a.identity()
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
		return fmt.Errorf("%w; nothing was changed; the configuration names %s and the database %q (%s)",
			err, a.device, a.Config.Store.File, lostTokenHint)
	}
	return err
}
