package keypair_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/gateway/keypair"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// TestFreezeEnds: a creation does not wait for ever, and neither does a backup; and
// what gave up is not waited for.
func TestFreezeEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var g keypair.Freeze
		inside := func(d time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			return g.Enter(ctx)
		}
		shut := func(d time.Duration) (func(), error) {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			return g.Close(ctx)
		}
		unavailable := func(what string, err error) {
			t.Helper()
			if api := (*kms.Error)(nil); !errors.As(err, &api) || api.Status != 503 || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v, want 503", what, err)
			}
		}
		if err := inside(time.Second); err != nil {
			t.Fatal(err)
		}
		_, err := shut(time.Second)
		unavailable("closing while somebody is inside", err)
		if err := inside(time.Second); err != nil {
			t.Fatalf("entering after a backup gave up: %v", err)
		}
		time.AfterFunc(time.Second, g.Leave)
		time.AfterFunc(2*time.Second, g.Leave)
		began := time.Now()
		open, err := shut(time.Minute)
		if err != nil || time.Since(began) != 2*time.Second {
			t.Fatalf("closing when the last has left: %v after %v", err, time.Since(began))
		}
		unavailable("entering during a backup", inside(time.Second))
		_, err = shut(time.Second)
		unavailable("a second backup", err)
		time.AfterFunc(time.Second, open)
		if err := inside(time.Minute); err != nil {
			t.Errorf("entering after a backup: %v", err)
		}
	})
}
