package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/kmsgate/kmsgate/internal/durable"
)

var errLocked = errors.New("in use by another kmsgate")

// lockDir makes dir and locks it for this process until it ends, however it ends.
func lockDir(dir string) (unlock func() error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory: %w", err)
	}
	unlock, err = durable.LockFile(filepath.Join(dir, "lock"))
	if errors.Is(err, durable.ErrLocked) {
		return nil, fmt.Errorf("the directory %s is %w: stop that one, or give this one its own directory (with `kmsgate dev`: --dir)", dir, errLocked)
	}
	return unlock, err
}
