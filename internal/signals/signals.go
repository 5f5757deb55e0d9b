// Package signals decides how a process of kmsgate reacts to signals. A signal may end it, reload
// its configuration, or do nothing. [Guard] keeps that so although a PKCS#11 module installs its
// own handlers.
package signals

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// A cause is the cause of a context that a signal ended.
type cause struct{ signal unix.Signal }

// Error implements error.
func (c cause) Error() string { return "received " + unix.SignalName(c.signal) }

// Is reports whether target is context.Canceled, which a cause matches.
func (c cause) Is(target error) bool { return target == context.Canceled }

// EndedBy returns the name of the signal that ended ctx, such as SIGTERM, or "" if none did. ctx is
// a context that this package returned, or one that is derived from it.
func EndedBy(ctx context.Context) string {
	var c cause
	if !errors.As(context.Cause(ctx), &c) {
		return ""
	}
	return unix.SignalName(c.signal)
}

// Context returns a copy of parent that the first SIGINT or SIGTERM ends. From then on these signals
// end the process at once, unless another part of the process receives them, too. stop ends the
// context without a signal.
func Context(parent context.Context) (ctx context.Context, stop func()) {
	ctx, end := context.WithCancelCause(parent)
	received := make(chan os.Signal, 1)
	signal.Notify(received, unix.SIGINT, unix.SIGTERM)
	go func() {
		defer signal.Stop(received)
		select {
		case s := <-received:
			end(cause{s.(unix.Signal)})
		case <-ctx.Done():
		}
	}()
	return ctx, func() { end(nil) }
}

// Hangups returns a channel that receives SIGHUP, which no longer ends the process. The channel
// keeps one signal until it is received.
func Hangups() <-chan os.Signal {
	received := make(chan os.Signal, 1)
	signal.Notify(received, unix.SIGHUP)
	return received
}

// SurviveBrokenPipes makes the process continue when nobody reads its standard output or standard
// error any more. Writing there then fails with EPIPE. Programs that the process starts still end.
func SurviveBrokenPipes() { signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE) }

// WithTerminal returns a copy of parent that SIGHUP ends if the process had a controlling terminal
// that no longer exists. Any other SIGHUP does nothing. If SIGHUP is ignored, as nohup does, it
// stays ignored. stop ends the context without a signal.
func WithTerminal(parent context.Context) (ctx context.Context, stop func()) {
	ctx, end := context.WithCancelCause(parent)
	stop = func() { end(nil) }
	if signal.Ignored(unix.SIGHUP) {
		return ctx, stop
	}
	had, hangups := hasTerminal(), Hangups()
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangups:
			}
			if had && losesTerminal(ctx) {
				end(cause{unix.SIGHUP})
			}
		}
	}()
	return ctx, stop
}

// hasTerminal reports whether the process has a controlling terminal.
func hasTerminal() bool {
	fd, err := unix.Open("/dev/tty", unix.O_RDONLY|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
		return true // it cannot be known
	}
	if err != nil {
		return false
	}
	_ = unix.Close(fd) // nothing was written
	return true
}

// losesTerminal reports whether the controlling terminal no longer exists. It looks for a second,
// because the kernel can send SIGHUP shortly before it takes the terminal away.
func losesTerminal(ctx context.Context) bool {
	const looks, pause = 10, 100 * time.Millisecond
	for range looks {
		if !hasTerminal() {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
	return !hasTerminal()
}
