package signals

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
)

// guardInterval is the pause between two looks at the handlers. While the token is away, its module is
// initialized up to a hundred times a second, and can replace them each time.
const guardInterval = 20 * time.Millisecond

// Guard keeps the handlers that SIGHUP, SIGINT, SIGPIPE and SIGTERM have now, until ctx is done. A PKCS#11
// module can replace them when it is initialized, and the signals would then no longer reach the
// gateway. Fifty times a second, Guard looks for replaced handlers and restores them. It calls restored
// with the name of each such signal, once. Call it after Context and Hangups, and before the module
// is loaded. On systems other than Linux it does nothing.
func Guard(ctx context.Context, restored func(name string)) {
	kept := make(map[unix.Signal]action)
	for _, s := range []unix.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGPIPE, unix.SIGTERM} {
		if a, err := currentAction(s); err == nil {
			kept[s] = a
		}
	}
	if len(kept) == 0 {
		return
	}
	go func() {
		reported := make(map[unix.Signal]bool)
		tick := time.NewTicker(guardInterval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			for s, a := range kept {
				if restore(s, a) && !reported[s] {
					reported[s] = true
					restored(unix.SignalName(s))
				}
			}
		}
	}()
}

// restore restores the action of a signal if it has another one, and reports whether it had.
func restore(s unix.Signal, want action) bool {
	now, err := currentAction(s)
	if err != nil || now == want {
		return false
	}
	return setAction(s, want) == nil
}
