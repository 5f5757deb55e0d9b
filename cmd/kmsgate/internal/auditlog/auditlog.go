// Package auditlog reads the files of an audit log for an operator: it searches, exports,
// follows and verifies them. It reads compressed files like all others.
//
// Its output cannot control a terminal, whatever the files contain, and a line of the
// log stays on one line. Only [Verify] checks the content of the files. All other functions
// check only that no line is missing, by the numbers of the lines. Reading stops soon after
// its context is done, even on a file that blocks, such as a named pipe.
package auditlog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/internal/printable"
)

// Search writes the lines of the named files that filter matches to out, and returns their
// number. If lines are missing, or a file is damaged, Search still searches all files, and
// then returns an error that names the missing lines. Lines before the first file do not
// count as missing.
func Search(ctx context.Context, names []string, filter *Filter, out *Writer) (found int, err error) {
	return search(named(ctx, names), new(gaps), filter, out)
}

// SearchLog is [Search] for all files of the log at a path. Lines at its beginning are missing
// unless the log says that retention has deleted them, or that they are in an earlier log.
func SearchLog(ctx context.Context, path string, filter *Filter, out *Writer) (found int, err error) {
	files, err := ofLog(ctx, path)
	if err != nil {
		return 0, err
	}
	return search(files, &gaps{whole: true}, filter, out)
}

func search(files []*file, gaps *gaps, filter *Filter, out *Writer) (found int, err error) {
	var damage []error
	for _, f := range files {
		var written error
		gaps.next(f.name)
		err := audit.Read(f, func(line audit.Line) error {
			gaps.see(line)
			if !filter.Match(line) {
				return nil
			}
			found++
			written = out.Write(line)
			return written
		})
		err = errors.Join(err, f.Close())
		switch {
		case f.ctx.Err() != nil:
			return found, errors.Join(f.ctx.Err(), out.Flush())
		case written != nil:
			return found, errors.Join(written, out.Flush())
		case err != nil:
			damage = append(damage, fmt.Errorf("reading %q%s: %w", f.name, gaps.position(), err))
		}
	}
	return found, errors.Join(errors.Join(damage...), gaps.err(), out.Flush())
}

// Verify verifies the named files, which must be in order, the oldest first. See
// audit.Verifier.
func Verify(ctx context.Context, v audit.Verifier, names []string) (audit.VerifyResult, error) {
	return verify(ctx, v, named(ctx, names))
}

// VerifyLog is [Verify] for all files of the log at a path.
func VerifyLog(ctx context.Context, v audit.Verifier, path string) (audit.VerifyResult, error) {
	files, err := ofLog(ctx, path)
	if err != nil {
		return audit.VerifyResult{}, err
	}
	return verify(ctx, v, files)
}

func verify(ctx context.Context, v audit.Verifier, files []*file) (audit.VerifyResult, error) {
	var all []audit.File
	for _, f := range files {
		defer f.Close()
		all = append(all, audit.File{Name: f.name, Reader: f})
	}
	result, err := v.Verify(all...)
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
	switch {
	case r.Deleted != nil:
		text += fmt.Sprintf("; lines 1 to %d were deleted by retention; verification begins at line %d",
			r.Deleted.Seq, r.First.Seq)
	case r.Restored != nil && r.First.Seq > 1:
		text += fmt.Sprintf("; the log continues after line %d of an earlier log, with the records of a backup",
			r.First.Seq-1)
	}
	if n := len(r.RolledBack); n > 0 {
		last := r.RolledBack[n-1]
		text += fmt.Sprintf("; the database was rolled back (%d in the log), most recently from change %d to change %d",
			n, last.Seen, last.Found)
	}
	if n := len(r.InDoubt); n > 0 {
		text += fmt.Sprintf("; after crashes, %d intended lines are in doubt, the last of them line %d", n, r.InDoubt[n-1])
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
