// Package auditlog reads the files of an audit log for an operator: it searches, exports,
// follows and verifies them.
//
// Its output cannot control a terminal, whatever the files contain, and a line of the
// log stays on one line. Only [Verify] checks the files; all other functions trust them.
// Reading stops soon after its context is done, even on a file that blocks, such as a named
// pipe.
package auditlog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/internal/printable"
)

// Files returns the names of the files of the log at a path, the oldest first. If there is
// none, it returns an error.
func Files(path string) ([]string, error) {
	names, err := audit.Files(path)
	if err == nil && len(names) == 0 {
		err = fmt.Errorf("no audit log at %q (name its file, or the configuration with --config)", path)
	}
	return names, err
}

// OpenFile opens a file for reading. It closes the file when ctx is done, which ends a
// blocked read.
func OpenFile(ctx context.Context, name string) (*os.File, error) {
	f, err := os.Open(name)
	if err == nil {
		context.AfterFunc(ctx, func() { f.Close() })
	}
	return f, err
}

// Search writes the lines that filter matches to out, and returns their number.
func Search(ctx context.Context, names []string, filter *Filter, out *Writer) (found int, err error) {
	err = eachLine(ctx, names, func(line audit.Line) error {
		if !filter.Match(line) {
			return nil
		}
		found++
		return out.Write(line)
	})
	return found, errors.Join(err, out.Flush())
}

// eachLine calls f with every line of the files.
func eachLine(ctx context.Context, names []string, f func(audit.Line) error) error {
	for _, name := range names {
		file, err := OpenFile(ctx, name)
		if err != nil {
			return err
		}
		err = audit.Read(file, f)
		file.Close()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("reading %q: %w", name, err)
		}
	}
	return nil
}

// Verify verifies the files, which must be in order, the oldest first. See audit.Verifier.
func Verify(ctx context.Context, v audit.Verifier, names []string) (audit.VerifyResult, error) {
	var files []audit.File
	for _, name := range names {
		f, err := OpenFile(ctx, name)
		if err != nil {
			return audit.VerifyResult{}, err
		}
		defer f.Close()
		files = append(files, audit.File{Name: name, Reader: f})
	}
	result, err := v.Verify(files...)
	switch {
	case ctx.Err() != nil:
		return result, ctx.Err()
	case err != nil:
		err = &printableError{err} // the error can quote the file
	}
	return result, err
}

// A printableError is an error whose text cannot act on a terminal.
type printableError struct{ error }

func (e *printableError) Error() string { return printable.Text(e.error.Error()) }

func (e *printableError) Unwrap() error { return e.error }

// Summary describes in one sentence which lines a verification proved, and which it did not.
func Summary(r audit.VerifyResult) string {
	if r.Proven.Seq < r.First.Seq {
		return fmt.Sprintf("not proven yet: lines %d to %d form a chain, but no checkpoint covers them",
			r.First.Seq, r.Last.Seq)
	}
	text := fmt.Sprintf("proven: lines %d to %d, up to %s",
		r.First.Seq, r.Proven.Seq, r.ProvenTime.UTC().Format(time.RFC3339))
	if r.Restored != nil && r.First.Seq > 1 {
		text += fmt.Sprintf("; the log continues after line %d of an earlier log, with the records of a backup",
			r.First.Seq-1)
	}
	switch more := r.Last.Seq - r.Proven.Seq; more {
	case 0:
		return text
	case 1: // the checkpoint that proves them
		return text + "; the log is whole: its last line is the checkpoint"
	case 2:
		return text + "; 1 line after that checkpoint is chained to it, but no checkpoint covers it yet"
	default:
		return text + fmt.Sprintf("; %d lines after that checkpoint are chained to it, but no checkpoint covers them yet", more-1)
	}
}
