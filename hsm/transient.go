package hsm

import (
	"context"
	"errors"
)

// IsTransient reports whether err does not depend on the key: the token was absent or
// busy, or the caller stopped waiting. After any other error, retrying does not help.
func IsTransient(err error) bool {
	if errors.Is(err, ErrRefused) {
		return false
	}
	return errors.Is(err, ErrUnavailable) || errors.Is(err, ErrBusy) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
