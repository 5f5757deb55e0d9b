package appliance

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/kmsgate/kmsgate/internal/durable"
)

// ErrInUse means that another process has the appliance's directory.
var ErrInUse = errors.New("in use by another kmsgate")

// LockDirectory makes dir if it is missing, and locks it for this process until unlock
// is called or the process ends. It does not wait for another process: the error is
// ErrInUse then.
func LockDirectory(dir string) (unlock func() error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory: %w", err)
	}
	unlock, err = durable.LockFile(filepath.Join(dir, "lock"))
	if errors.Is(err, durable.ErrLocked) {
		return nil, fmt.Errorf("the directory %s is %w: stop that one, or give this one its own directory (with `kmsgate dev`: --dir)", dir, ErrInUse)
	}
	return unlock, err
}
