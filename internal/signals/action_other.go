//go:build !linux

package signals

import (
	"errors"

	"golang.org/x/sys/unix"
)

// An action is the handler of a signal.
type action struct{}

func currentAction(unix.Signal) (action, error) { return action{}, errors.ErrUnsupported }

func setAction(unix.Signal, action) error { return errors.ErrUnsupported }
