package appliance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/keypair"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

const rollbackHint = "put the right database back, or restore a backup with `kmsgate restore`; if you want to go on without " +
	"the changes that this database lacks, start once with --accept-store-rollback"

// maxAhead is how far the number in the token can be ahead of that of the records. It takes the PIN to write it.
// Forged lines of the audit log raise the number by far less: see audit.Open.
const maxAhead = 1 << 62

// counted returns the number of the last change that the token has seen, or 0 if it keeps none. number is that of
// the records, or 0 if they are not known.
func counted(ctx context.Context, t hsm.Token, number uint64) (uint64, error) {
	c, ok := t.(hsm.Counter)
	if !ok {
		return 0, nil
	}
	n, _, err := c.Counter(ctx)
	if err != nil && !errors.Is(err, hsm.ErrNoCounter) {
		return 0, fmt.Errorf("reading the number of the last change from the token: %w", err)
	}
	if n > number && n-number > maxAhead {
		return 0, fmt.Errorf("the token says that the database's last change is number %d, which no gateway reaches: something "+
			"else wrote it (remove the data object \"kmsgate-audit\" with the token's tools)", n)
	}
	return n, nil
}

// checkSealed refuses a database whose records are not sealed if the token has seen a sealed one. An earlier
// kmsgate wrote it, or an attacker.
func checkSealed(ctx context.Context, a *Appliance, database *store.File) error {
	switch {
	case database.Sealed():
		return nil
	case a.recordsOnly:
		return fmt.Errorf("the database %q is of an earlier kmsgate, and is not sealed (kmsgate serve migrates it)", a.Config.Store.File)
	case a.options.AcceptStoreRollback:
		return nil
	}
	if n, err := counted(ctx, a.token, 0); err != nil || n == 0 {
		return err
	}
	return fmt.Errorf("the database %q is older or forged: its records are not sealed, but the token has seen a sealed "+
		"database (%s)", a.Config.Store.File, rollbackHint)
}

// catchUpToken is catchUp with the number in the token.
func catchUpToken(ctx context.Context, a *Appliance) error {
	n, err := counted(ctx, a.token, a.Store.Now().Number())
	if err != nil {
		return err
	}
	return catchUp(a.Store, n, store.Rollback{})
}

// explainRollback adds advice to a RollbackError.
func explainRollback(err error) error {
	if rollback := new(audit.RollbackError); errors.As(err, &rollback) {
		return fmt.Errorf("%w (%s)", err, rollbackHint)
	}
	return err
}

// catchUp makes the number of the next change greater than all that the audit log or the token have seen. If
// the records are older, their orphans are forgotten: since then, such a key pair may have become that of a
// key. Its objects in the token are then strays, which only an operator destroys. The same change records
// rollback, so that a start after a kill still finds it: the number alone does not show it any more.
func catchUp(s *store.Store, seen uint64, rollback store.Rollback) error {
	if s.Now().Number() >= seen {
		return nil
	}
	return s.Update(func(tx *store.Tx) error {
		store.Skip(tx, seen)
		err := errors.Join(tx.SetClock(tx.Clock()), store.SetRollback(tx, rollback))
		for o := range s.Now().Orphans().All() {
			err = errors.Join(err, tx.Orphans().Delete(o.KeyVersionId))
		}
		return err
	})
}

// keepDueKeys cancels the deletions that the gateway would carry out at its start, if the database is an older
// one: they may have been cancelled in a newer one. If it fails or the process is killed, the next start
// calls it again.
func keepDueKeys(a *Appliance) error {
	if store.RollbackOf(a.Store.Now()) == (store.Rollback{}) {
		return nil
	}
	err := keypair.KeepDueKeys(a.Store, a.log, fmt.Sprintf("local:%d", os.Getuid()), time.Now, a.options.Logger)
	if err != nil {
		return err
	}
	return a.Store.Update(func(tx *store.Tx) error { return store.SetRollback(tx, store.Rollback{}) })
}
