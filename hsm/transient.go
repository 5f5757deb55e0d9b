package hsm

import (
	"context"
	"errors"
)

// IsTransient reports whether an error says nothing about a key: the token was away or
// busy, or the caller did not wait. After any other error, trying again does not help.
func IsTransient(err error) bool {
	if errors.Is(err, ErrRefused) {
		return false
	}
	return errors.Is(err, ErrUnavailable) || errors.Is(err, ErrBusy) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
