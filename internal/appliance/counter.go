package appliance

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// counterInterval is the time between two writes of the number to the token while the gateway serves.
const counterInterval = time.Hour

// counterTimeout is how long the token may take to store the number.
const counterTimeout = 10 * time.Second

// A counterKeeper writes the number of the last change to the token. Tokens wear out, so it writes at most once an
// hour while the gateway serves, however often the gateway starts. It also writes when the appliance closes, if the
// audit log has a line since the start.
type counterKeeper struct {
	appliance *Appliance
	token     hsm.Counter
	server    *gateway.Server // nil until start

	line uint64 // the last one of the audit log at the start
	idle bool   // no line has followed it
}

// prepareCounter makes Close write the number. The caller must register the audit log's Close after this call, so
// that it runs first: closing the log changes the records.
func prepareCounter(a *Appliance) *counterKeeper {
	k := &counterKeeper{appliance: a, idle: true, line: a.log.Head().Seq}
	k.token, _ = a.token.(hsm.Counter)
	a.OnClose("the number of the last change", func() error {
		if !k.idle {
			ctx, cancel := context.WithTimeout(context.Background(), counterTimeout)
			defer cancel()
			k.write(ctx)
		}
		return nil
	})
	return k
}

// start writes the number if that is due, and from time to time until the appliance is closed.
func (k *counterKeeper) start() {
	if k.token == nil {
		return
	}
	a := k.appliance
	k.server = a.Server
	ctx, cancel := context.WithCancel(context.Background())
	wait := k.untilDue(ctx)
	if wait == 0 {
		k.write(ctx) // otherwise, a gateway that is often killed would never write it
		wait = counterInterval
	}
	var done sync.WaitGroup
	done.Go(func() {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
				k.write(ctx)
				timer.Reset(counterInterval)
			}
		}
	})
	a.OnClose("the counter", func() error {
		cancel()
		done.Wait()
		k.idle = a.log.Head().Seq == k.line
		return nil
	})
}

// untilDue returns the time until the number is to be written again. A token without a number gets one at once.
func (k *counterKeeper) untilDue(ctx context.Context) time.Duration {
	ctx, cancel := context.WithTimeout(ctx, counterTimeout)
	defer cancel()
	if _, known, _ := k.token.Counter(ctx); !known {
		return 0
	}
	elapsed := time.Since(store.CountedAt(k.appliance.Store.Now()))
	if elapsed < 0 { // the clock was set back
		return 0
	}
	return max(0, counterInterval-elapsed)
}

// write writes the number of the last change to the token, unless the token has it. It waits for the end of a
// backup, which copies the token's files. If it fails, the gateway continues: it needs the number only to detect
// an older database.
func (k *counterKeeper) write(ctx context.Context) {
	records := k.appliance.Store
	err := k.server.OutsideBackup(ctx, func() error {
		ctx, cancel := context.WithTimeout(ctx, counterTimeout)
		defer cancel()
		n, _, err := k.token.Counter(ctx)
		if err != nil || n == records.Now().Number() {
			return err
		}
		// The time is recorded first: a gateway that is killed in between must not write again at each start.
		if err := records.Update(func(tx *store.Tx) error { return store.SetCountedAt(tx, time.Now().UTC()) }); err != nil {
			return err
		}
		return k.token.SetCounter(ctx, records.Now().Number())
	})
	if err != nil && !errors.Is(err, hsm.ErrNoCounter) && !errors.Is(ctx.Err(), context.Canceled) {
		k.appliance.options.Logger.Warn("writing the number of the database's last change to the token failed; until that "+
			"succeeds, an older database beside an older audit log may not be noticed", "err", err)
	}
}
