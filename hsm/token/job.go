package token

import (
	"context"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
)

// A job is one piece of work for a session, on behalf of a waiting caller.
type job struct {
	ctx    context.Context // the caller's: a job whose caller has left is not begun
	do     func(*session) error
	repeat repeat
	tries  int
	done   chan error // takes one error without waiting: the caller may have left
}

// repeat says whether a job may be begun a second time.
type repeat bool

const (
	again repeat = true  // signing and sealing: a second time does no harm
	once  repeat = false // changes of the token
)

// maxTries bounds how often a job is begun: at first, in a new session, and on
// the connection after.
const maxTries = 4

// run hands do to a worker of queue and waits for its result.
func run[T any](ctx context.Context, t *Token, queue chan *job, r repeat, do func(*session) (T, error)) (T, error) {
	var zero T
	if err := ctx.Err(); err != nil {
		return zero, err
	}
	// The result travels in a channel and not in a shared variable: when the
	// caller leaves early the worker may still write it.
	result := make(chan T, maxTries)
	j := &job{ctx: ctx, repeat: r, done: make(chan error, 1), do: func(s *session) error {
		v, err := do(s)
		if err == nil {
			result <- v
		}
		return err
	}}
	select {
	case queue <- j:
	default:
		return zero, hsm.ErrBusy
	}
	select {
	case err := <-j.done:
		if err != nil {
			return zero, err
		}
		return <-result, nil
	case <-ctx.Done():
		return zero, waitError(ctx.Err())
	case <-t.done:
		return zero, t.doneErr
	}
}

func waitError(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: it did not answer in time: %w", hsm.ErrUnavailable, err)
	}
	return err
}

// A moduleError is an error that came out of the PKCS#11 module. Only such
// errors make a worker doubt its session and its connection.
type moduleError struct {
	doing string
	err   error
}

func (e *moduleError) Error() string { return e.doing + ": " + e.err.Error() }
func (e *moduleError) Unwrap() error { return e.err }

// fromModule marks an error as the module's; nil stays nil.
func fromModule(doing string, err error) error {
	if err == nil {
		return nil
	}
	return &moduleError{doing, err}
}

func isFromModule(err error) bool {
	var e *moduleError
	return errors.As(err, &e)
}

// isCode reports whether err is one of the PKCS#11 return values.
func isCode(err error, codes ...pkcs11.Error) bool {
	var code pkcs11.Error
	if !errors.As(err, &code) {
		return false
	}
	for _, c := range codes {
		if code == c {
			return true
		}
	}
	return false
}
