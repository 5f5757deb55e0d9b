package appliance

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/kmsgate/kmsgate/gateway/keypair"
	"github.com/kmsgate/kmsgate/hsm/token"
	"github.com/kmsgate/kmsgate/store"
)

// openPair opens the database and the token, which have to belong together. It opens the
// database first: once that belongs to an instance, nothing is made in a token, which
// would be another's. It also makes the database first, so that a token with keys but
// without a database is known to be of an instance that has lost its own.
func (a *Appliance) openPair(ctx context.Context) (err error) {
	if err := a.openDatabase(ctx); err != nil {
		return err
	}
	complete := a.hasAuditKey()
	if a.keys, a.token, err = a.settings.open(a.options.Provision && !complete); complete && isLost(err) {
		return fmt.Errorf("%w. The database %s has keys in the token that it was made with, and no other will do: %s", err, a.Config.Store.File, lostToken)
	} else if err != nil {
		return err
	}
	a.OnClose("the token", a.token.Close)
	if err := a.ensureAuditKey(ctx); err != nil {
		return err
	}
	return a.checkToken(ctx)
}

// openDatabase opens the database, or makes it where nothing is left of another
// instance.
func (a *Appliance) openDatabase(ctx context.Context) error {
	path := a.Config.Store.File
	open := func() (err error) {
		if a.Store, err = store.Open(path); err == nil {
			a.OnClose("the database", a.Store.Close)
		}
		return err
	}
	if info, err := os.Stat(path); err == nil && info.Size() > 0 {
		if err := open(); err != nil {
			return err
		}
	}
	begun, err := a.checkInstance()
	switch {
	case err != nil:
		return err
	case begun && a.hasAuditKey():
		return nil
	case begun && !a.options.Provision:
		return ErrNotInitialized // an init was cut off
	case !a.options.Provision:
		return a.explainMissing(ctx)
	}
	if err := a.checkUnused(ctx, begun); err != nil {
		return err
	}
	if a.Store == nil {
		if err := open(); err != nil {
			return err
		}
	}
	return a.Store.Update(func(tx *store.Tx) error { return tx.SetInstance(a.identity()) })
}

// checkInstance reports whether the database belongs to the configuration's instance. It
// returns an error if the database belongs to another one.
func (a *Appliance) checkInstance() (exists bool, err error) {
	if a.Store == nil {
		return false, nil
	}
	found, want := a.Store.Now().Instance(), a.identity()
	if found != want && found != (store.Instance{}) {
		err = fmt.Errorf("the database %s is of instance %s in region %s of account %s, and the configuration says %s, %s, %s",
			a.Config.Store.File, found.InstanceId, found.RegionId, found.AccountId, want.InstanceId, want.RegionId, want.AccountId)
	}
	return found == want, err
}

// isLost reports whether another token, or a backup, is what helps against an error.
func isLost(err error) bool {
	return errors.Is(err, token.ErrNotOurs) || errors.Is(err, errNoTokenDir)
}

var errNoTokenDir = errors.New("is not there")

const lostToken = "give the right one in the configuration, or, if it is lost, restore token and database from a backup (kmsgate restore)"

// checkToken refuses a token that is not the database's, before anything is done with
// either.
func (a *Appliance) checkToken(ctx context.Context) error {
	err := keypair.MatchesToken(ctx, a.Store, a.keys, a.token)
	if errors.Is(err, keypair.ErrForeignToken) {
		return fmt.Errorf("%w. Nothing was changed. The token is %s, the database %s: %s", err, a.settings.name(), a.Config.Store.File, lostToken)
	}
	return err
}
