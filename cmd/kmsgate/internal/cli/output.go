package cli

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
)

// ErrOutputClosed means that the answer, which is not shown again, could not be printed.
var ErrOutputClosed = errors.New("the standard output is closed, and the answer is not shown again: nothing was done")

// CheckOutput returns ErrOutputClosed if the standard output was closed when the program began. Go
// has then opened /dev/null in its place, for reading and writing, which no shell does.
func CheckOutput() error {
	var output, null unix.Stat_t
	flags, err := unix.FcntlInt(uintptr(unix.Stdout), unix.F_GETFL, 0)
	if err == nil {
		err = errors.Join(unix.Fstat(unix.Stdout, &output), unix.Stat("/dev/null", &null))
	}
	if err != nil || flags&unix.O_ACCMODE == unix.O_RDWR && output.Mode&unix.S_IFMT == unix.S_IFCHR && output.Rdev == null.Rdev {
		return ErrOutputClosed
	}
	return nil
}

// ToOpenOutput calls operations only if their answer can be printed.
func ToOpenOutput(then Calls) Calls {
	return func(ctx context.Context, c target.Caller, parameters map[string]string) (View, error) {
		if err := CheckOutput(); err != nil {
			return View{}, err
		}
		return then(ctx, c, parameters)
	}
}
