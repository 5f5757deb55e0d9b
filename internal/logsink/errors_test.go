package logsink_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/internal/logsink"
)

// newLogger returns a logger without times, and its output.
func newLogger() (*slog.Logger, *bytes.Buffer) {
	b := new(bytes.Buffer)
	untimed := func(groups []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey && len(groups) == 0 {
			return slog.Attr{}
		}
		return a
	}
	options := &slog.HandlerOptions{Level: slog.LevelInfo, ReplaceAttr: untimed}
	return slog.New(logsink.LimitErrors(slog.NewTextHandler(b, options))), b
}

// TestLimitErrors tests that one error of each reason is logged in a second, and that the next one
// says how many were not.
func TestLimitErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logger, b := newLogger()
		fail := func(id int, err string) {
			logger.Error("request failed", "RequestId", id, "err", errors.New(err))
		}
		for id := range 1000 {
			fail(id, fmt.Sprintf("key 7f3a%04d-1111: CKR_DEVICE_ERROR", id))
		}
		fail(1, "CKR_DEVICE_REMOVED")
		logger.Error("request failed", "RequestId", 1)
		logger.Error("answer failed", "err", "CKR_DEVICE_REMOVED")
		for range 3 {
			logger.Warn("still failing", "err", "CKR_DEVICE_REMOVED")
		}
		time.Sleep(time.Second - 1)
		fail(1, "CKR_DEVICE_REMOVED")
		time.Sleep(time.Nanosecond)
		fail(2, "key 7f3a0000-1111: CKR_DEVICE_ERROR")
		fail(3, "CKR_DEVICE_REMOVED")
		fail(4, "CKR_DEVICE_REMOVED")
		time.Sleep(time.Hour)
		fail(5, "CKR_DEVICE_REMOVED")
		want := `level=ERROR msg="request failed" RequestId=0 err="key 7f3a0000-1111: CKR_DEVICE_ERROR"
level=ERROR msg="request failed" RequestId=1 err=CKR_DEVICE_REMOVED
level=ERROR msg="request failed" RequestId=1
level=ERROR msg="answer failed" err=CKR_DEVICE_REMOVED
level=WARN msg="still failing" err=CKR_DEVICE_REMOVED
level=WARN msg="still failing" err=CKR_DEVICE_REMOVED
level=WARN msg="still failing" err=CKR_DEVICE_REMOVED
level=ERROR msg="request failed" RequestId=2 err="key 7f3a0000-1111: CKR_DEVICE_ERROR" repeated=999
level=ERROR msg="request failed" RequestId=3 err=CKR_DEVICE_REMOVED repeated=1
level=ERROR msg="request failed" RequestId=5 err=CKR_DEVICE_REMOVED repeated=1
`
		if got := b.String(); got != want {
			t.Errorf("got the log\n%swant\n%s", got, want)
		}
	})
}

// TestLimitErrorsWith tests that loggers with attributes and groups share the limit, and keep their
// attributes and groups.
func TestLimitErrorsWith(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logger, b := newLogger()
		for range 2 {
			logger.With("door", "RPC").Error("failed", "err", "a")
			logger.Error("failed", "err", "a")
			logger.With("err", "b").WithGroup("call").Error("failed", "n", 1)
			logger.With("err", "c").Error("failed")
			time.Sleep(time.Second)
		}
		logger.Debug("not logged")
		want := `level=ERROR msg=failed door=RPC err=a
level=ERROR msg=failed err=b call.n=1
level=ERROR msg=failed err=c
level=ERROR msg=failed door=RPC err=a repeated=1
level=ERROR msg=failed err=b call.n=1
level=ERROR msg=failed err=c
`
		if got := b.String(); got != want {
			t.Errorf("got the log\n%swant\n%s", got, want)
		}
	})
}

// TestManyReasons tests that a flood of different reasons is limited, too, and that the limit ends
// with the flood.
func TestManyReasons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logger, b := newLogger()
		flood := func() (lines int) {
			b.Reset()
			for i := range 5000 {
				logger.Error("failed", "err", strings.Repeat("x", i/100)+" "+strings.Repeat("y", i%100))
			}
			return strings.Count(b.String(), "\n")
		}
		if got := flood(); got < 1000 || got > 1001 {
			t.Errorf("got %d lines for 5,000 reasons, want 1,000 and one for all others", got)
		}
		time.Sleep(time.Second)
		if got := flood(); got < 1000 || got > 1001 {
			t.Errorf("a second later: got %d lines for 5,000 reasons, want 1,000 and one for all others", got)
		}
		time.Sleep(time.Second)
		b.Reset()
		logger.Error("another reason")
		if got := b.String(); got != "level=ERROR msg=\"another reason\"\n" {
			t.Errorf("after the flood: got %q, want the line", got)
		}
	})
}
