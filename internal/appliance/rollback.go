package appliance

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// counterInterval is the time between two writes of the number to the token. Tokens wear out.
const counterInterval = time.Hour

// counterTimeout is how long the token may take to store the number.
const counterTimeout = 10 * time.Second

const rollbackHint = "put the right database back, or restore a backup with `kmsgate restore`; if you want to go on without " +
	"the changes that this database lacks, start once with --accept-store-rollback"

// counted returns the number of the last change that the token has seen, or 0 if it keeps none.
func counted(ctx context.Context, t hsm.Token) (uint64, error) {
	c, ok := t.(hsm.Counter)
	if !ok {
		return 0, nil
	}
	n, _, err := c.Counter(ctx)
	if err != nil && !errors.Is(err, hsm.ErrNoCounter) {
		return 0, fmt.Errorf("reading the number of the last change from the token: %w", err)
	}
	return n, nil
}

// explainRollback adds advice to a RollbackError.
func explainRollback(err error) error {
	if rollback := new(audit.RollbackError); errors.As(err, &rollback) {
		return fmt.Errorf("%w (%s)", err, rollbackHint)
	}
	return err
}

// catchUp makes the number of the next change greater than all that the audit log or the token have seen.
func catchUp(s *store.Store, seen uint64) error {
	if s.Now().Number() >= seen {
		return nil
	}
	return s.Update(func(tx *store.Tx) error {
		store.Skip(tx, seen)
		return tx.SetClock(tx.Clock())
	})
}

// keepCounter writes the number of the last change to the token from time to time, and when the
// appliance is closed.
func keepCounter(a *Appliance) {
	c, ok := a.token.(hsm.Counter)
	if !ok {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(counterInterval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				writeCounter(a, c)
			}
		}
	})
	a.OnClose("the number of the last change", func() error { // the audit log is closed already
		cancel()
		done.Wait()
		writeCounter(a, c)
		return nil
	})
}

// writeCounter writes the number of the last change to the token. A failure is no reason to stop: the
// number only finds out an attack.
func writeCounter(a *Appliance, c hsm.Counter) {
	ctx, cancel := context.WithTimeout(context.Background(), counterTimeout)
	defer cancel()
	err := c.SetCounter(ctx, a.Store.Now().Number())
	if err != nil && !errors.Is(err, hsm.ErrNoCounter) {
		a.options.Logger.Warn("writing the number of the database's last change to the token failed; until that succeeds, "+
			"an older database beside an older audit log may not be noticed", "err", err)
	}
}
