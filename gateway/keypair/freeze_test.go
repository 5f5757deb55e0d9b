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

// TestFreezeEnds checks that Enter and Close stop waiting when their context ends, and that nobody
// waits for a caller that stopped waiting.
func TestFreezeEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var f keypair.Freeze
		enter := func(d time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			return f.Enter(ctx)
		}
		shut := func(d time.Duration) (func(), error) {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			return f.Close(ctx)
		}
		wantUnavailable := func(moment string, err error) {
			t.Helper()
			api := (*kms.Error)(nil)
			if !errors.As(err, &api) || api.Status != 503 || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v, want status 503 and %v", moment, err, context.DeadlineExceeded)
			}
		}
		if err := enter(time.Second); err != nil {
			t.Fatal(err)
		}
		_, err := shut(time.Second)
		wantUnavailable("Close while a caller is inside", err)
		if err := enter(time.Second); err != nil {
			t.Fatalf("Enter after Close stopped waiting: %v, want no error", err)
		}
		time.AfterFunc(time.Second, f.Exit)
		time.AfterFunc(2*time.Second, f.Exit)
		began := time.Now()
		open, err := shut(time.Minute)
		if err != nil || time.Since(began) != 2*time.Second {
			t.Fatalf("Close: %v after %v, want no error when the last caller leaves, after 2s", err, time.Since(began))
		}
		wantUnavailable("Enter while closed", enter(time.Second))
		_, err = shut(time.Second)
		wantUnavailable("a second Close", err)
		time.AfterFunc(time.Second, open)
		if err := enter(time.Minute); err != nil {
			t.Errorf("Enter until open is called: %v, want no error", err)
		}
	})
}
