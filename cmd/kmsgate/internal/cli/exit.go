package cli

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/internal/printable"
)

// The exit statuses of the program, by kind of failure.
const (
	ExitOK          = 0
	ExitOther       = 1
	ExitUsage       = 2 // the command line is wrong, or a parameter in it is invalid; nothing was changed
	ExitNotFound    = 3 // a key, user, policy or other thing that the command names does not exist
	ExitRefused     = 4 // the gateway refused the operation
	ExitUnreachable = 5 // the gateway, or its token, does not answer
	// ExitPIN: the token rejected the PIN, or no attempt was made because it could lock. A
	// supervisor gains nothing by starting the program again. (EX_NOPERM of sysexits.h.)
	ExitPIN = 77
)

// ErrRefused means that the gateway refused a part of a command: its ExitStatus is ExitRefused.
var ErrRefused = errors.New("refused")

// ExitStatus returns the exit status for an error that a command returned.
func ExitStatus(err error) int {
	var usage *usageError
	var refusal *kms.Error
	var connection *net.OpError
	switch {
	case err == nil:
		return ExitOK
	case errors.Is(err, hsm.ErrPIN):
		return ExitPIN
	case errors.As(err, &usage), errors.Is(err, target.ErrNoTarget):
		return ExitUsage
	case errors.Is(err, ErrRefused):
		return ExitRefused
	case errors.As(err, &refusal):
		return statusOfRefusal(refusal)
	case errors.Is(err, target.ErrUnreachable), errors.Is(err, hsm.ErrUnavailable), errors.Is(err, kms.ErrNoAnswer), errors.As(err, &connection) && connection.Op != "listen":
		return ExitUnreachable
	}
	return ExitOther
}

func statusOfRefusal(refusal *kms.Error) int {
	switch {
	case errors.Is(refusal, kms.ErrInvalidParameter), errors.Is(refusal, kms.ErrMissingParameter):
		return ExitUsage
	case refusal.Status == http.StatusNotFound:
		return ExitNotFound
	case refusal.Status == http.StatusServiceUnavailable:
		return ExitUnreachable
	case refusal.Status >= http.StatusInternalServerError:
		return ExitOther
	}
	return ExitRefused
}

// A usageError is a mistake in the command line.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// Usagef returns an error about the command line: [ExitStatus] of it is ExitUsage.
func Usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// UsageError returns err as an error about the command line, or nil if err is nil.
func UsageError(err error) error {
	if err == nil {
		return nil
	}
	return &usageError{err}
}

// ReportError prints an error to w, the standard error of the program: as JSON if the command
// line args asks for that, else in one line for each part.
func ReportError(w io.Writer, args []string, err error) {
	if asksForJSON(args) {
		report := struct {
			Error, Code string
			ExitStatus  int
		}{Error: err.Error(), ExitStatus: ExitStatus(err)}
		var refusal *kms.Error
		if errors.As(err, &refusal) {
			report.Code = refusal.Code
		}
		if text, err := encodeJSON(report); err == nil {
			_, _ = w.Write(text) // there is nowhere to report a failure to
			return
		}
	}
	fmt.Fprint(w, printable.Lines("kmsgate: "+strings.ReplaceAll(err.Error(), "\t", "  ")))
}

// asksForJSON reports whether a command line has -o json. It does not rely on parsed flags: the
// mistake to report may come before it.
func asksForJSON(args []string) bool {
	for i, arg := range args {
		switch arg {
		case "--":
			return false
		case "-o", "--output":
			return i+1 < len(args) && args[i+1] == OutputJSON
		case "-o" + OutputJSON, "-o=" + OutputJSON, "--output=" + OutputJSON:
			return true
		}
	}
	return false
}
