package appliance

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/kmsgate/kmsgate/internal/durable"
)

// ErrInUse means that another process has locked the appliance's directory.
var ErrInUse = errors.New("in use by another kmsgate process")

const lockName = "lock"

// LockDirectory creates dir if it is missing, and locks it until unlock is called or this
// process ends. It does not wait: if another process holds the lock, the error is ErrInUse.
func LockDirectory(dir string) (unlock func() error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating the directory: %w", err)
	}
	unlock, err = durable.LockFile(filepath.Join(dir, lockName))
	if errors.Is(err, durable.ErrLocked) {
		return nil, fmt.Errorf("the directory %q is %w (stop that process, or use another directory; kmsgate dev "+
			"takes --dir)",
			dir, ErrInUse)
	}
	return unlock, err
}

// CheckNotInUse returns an error that wraps ErrInUse if another process has locked dir. It
// creates nothing.
func CheckNotInUse(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, lockName)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	unlock, err := LockDirectory(dir)
	if err != nil {
		return err
	}
	return unlock()
}
