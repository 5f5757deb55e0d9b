package auditlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

// A Tail is a position in a log, up to which its lines were read. The caller must close it.
type Tail struct {
	path   string // of the log
	file   *os.File
	offset int64 // in file, which is not compressed; the end of a complete line
	read   bool  // the whole file was read, which is compressed
	gaps   gaps
}

// OpenTail returns the last n lines of the log at a path, and the position after them. If lines
// between them are missing, Tail.Gaps names those.
func OpenTail(path string, n int) ([]audit.Line, *Tail, error) {
	for range maxLists {
		names, err := Files(path)
		if err != nil {
			return nil, nil, err
		}
		t := &Tail{path: path}
		lines, err := t.readEnd(names, n)
		again, listErr := audit.Files(path)
		if listErr == nil && !slices.Equal(names, again) {
			t.Close() // the lines can lack some, because a file was rotated, compressed or deleted
			continue
		}
		if err := errors.Join(err, listErr); err != nil {
			return nil, nil, errors.Join(err, t.Close())
		}
		return lines, t, nil
	}
	return nil, nil, fmt.Errorf("cannot list the files of the audit log %q, because they change continually", path)
}

// readEnd opens the last of the files and returns the last n lines. It reads at least the last one,
// because Follow continues after it.
func (t *Tail) readEnd(names []string, n int) ([]audit.Line, error) {
	parts := make([][]audit.Line, len(names)) // the lines of each file
	count := 0
	for i, name := range slices.Backward(names) {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		lines, end, err := lastLines(f, max(n, 1)-count)
		if i == len(names)-1 {
			t.file, t.offset, t.read = f, end, isCompressed(name)
		} else {
			f.Close()
		}
		if err != nil {
			return nil, fmt.Errorf("reading %q: %w", name, err)
		}
		parts[i] = lines
		if count += len(lines); count >= n {
			break
		}
	}
	t.gaps.whole = count < n
	for i, name := range names {
		t.gaps.next(name)
		for _, line := range parts[i] {
			t.gaps.see(line)
		}
	}
	lines := slices.Concat(parts...)
	return lines[max(0, len(lines)-n):], nil
}

func isCompressed(name string) bool { return strings.HasSuffix(name, ".gz") }

// lastLines returns the last n lines of a file, and the offset after its last newline. It reads a
// compressed file from its beginning.
func lastLines(f *os.File, n int) (lines []audit.Line, end int64, err error) {
	if isCompressed(f.Name()) {
		err := audit.Read(audit.Decompress(f.Name(), f), func(line audit.Line) error {
			if lines = append(lines, line); len(lines) >= 2*n {
				lines = append(lines[:0], lines[len(lines)-n:]...)
			}
			return nil
		})
		return lines[max(0, len(lines)-n):], 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	return audit.LastLines(f, info.Size(), n)
}

// Gaps returns an error that names the missing lines between those that were read, or nil if none
// is missing. If OpenTail reached the log's beginning, lines before it are missing unless the log
// says that retention has deleted them, or that they are in an earlier log.
func (t *Tail) Gaps() error { return t.gaps.err() }

// Close closes the log's file.
func (t *Tail) Close() error {
	if t.file == nil {
		return nil
	}
	return t.file.Close()
}

// Follow writes lines that are added to the log until ctx is done, across rotations. It reads
// the log immediately, and then whenever it receives from wake. It returns an error if lines
// between those that it read are missing.
func (t *Tail) Follow(ctx context.Context, out *Writer, wake <-chan time.Time) error {
	for {
		// The successor is looked up before reading: a file with a successor no longer grows.
		next, err := t.successor()
		if err := errors.Join(err, t.readNew(out), out.Flush(), t.Gaps()); err != nil {
			return err
		}
		if next != nil {
			t.file.Close()
			t.file, t.offset, t.read = next, 0, false
			t.gaps.next(next.Name())
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		}
	}
}

// readSize is the maximum number of bytes that one call reads.
const readSize = 4 << 20

// readNew writes the lines that were added since the last read.
func (t *Tail) readNew(out *Writer) error {
	write := func(line audit.Line) error {
		t.gaps.see(line)
		return out.Write(line)
	}
	if name := t.file.Name(); isCompressed(name) {
		if t.read {
			return nil
		}
		t.read = true
		if err := audit.Read(audit.Decompress(name, t.file), write); err != nil {
			return fmt.Errorf("reading %q%s: %w", name, t.gaps.position(), err)
		}
		return nil
	}
	for {
		text, err := audit.WholeLines(t.file, t.offset, readSize)
		if err != nil || len(text) == 0 {
			return err
		}
		if err := audit.Read(bytes.NewReader(text), write); err != nil {
			return err
		}
		t.offset += int64(len(text))
	}
}

// successor opens the file in which the log continues after t.file. It returns nil if t.file
// is still the last.
func (t *Tail) successor() (*os.File, error) {
	opened, err := t.file.Stat()
	if err != nil {
		return nil, err
	}
	same := func(name string) bool {
		info, err := os.Stat(name)
		return err == nil && os.SameFile(info, opened)
	}
	if same(t.path) {
		return nil, nil
	}
	names, err := audit.Files(t.path)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(names, same) + 1
	if i == 0 { // the file was compressed, deleted or replaced
		first := t.firstNumber()
		i = slices.IndexFunc(names, func(name string) bool { return t.number(name) > first })
	}
	next := t.path
	if i >= 0 && i < len(names) {
		next = names[i]
	}
	f, err := os.Open(next)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // the log is being rotated, or the file compressed
	}
	return f, err
}

// firstNumber returns the number of the first line in t.file. If it has none, the number is that of
// the last line before it.
func (t *Tail) firstNumber() uint64 {
	first := t.gaps.last
	content := io.NewSectionReader(t.file, 0, math.MaxInt64)
	_ = audit.Read(audit.Decompress(t.file.Name(), content), func(line audit.Line) error {
		first = line.Seq
		return errStop
	})
	return first
}

// errStop ends a reading after the first line.
var errStop = errors.New("stop")

// number returns the number of a file's first line, which is in the name of a rotated file. It is
// the greatest possible number for the current file.
func (t *Tail) number(name string) uint64 {
	suffix := strings.TrimPrefix(name, t.path+".")
	n, err := strconv.ParseUint(suffix[:min(16, len(suffix))], 10, 64)
	if err != nil {
		return math.MaxUint64
	}
	return n
}
