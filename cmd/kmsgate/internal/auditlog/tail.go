package auditlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

// A Tail is a position in a log, up to which its lines were read. The caller must close it.
type Tail struct {
	path   string // of the log
	file   *os.File
	offset int64 // in file; the end of a complete line
}

// OpenTail returns the last n lines of the log at a path, and the position after them.
func OpenTail(path string, n int) (_ []audit.Line, t *Tail, err error) {
	names, err := Files(path)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil && t != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	var lines []audit.Line
	for i, name := range slices.Backward(names) {
		f, err := os.Open(name)
		if err != nil {
			return nil, t, err
		}
		older, end, err := lastLines(f, n-len(lines))
		if lines = append(older, lines...); i == len(names)-1 {
			t = &Tail{path, f, end}
		} else {
			f.Close()
		}
		if err != nil {
			return nil, t, fmt.Errorf("reading %q: %w", name, err)
		}
		if len(lines) >= n {
			break
		}
	}
	return lines, t, nil
}

func lastLines(f *os.File, n int) ([]audit.Line, int64, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	return audit.LastLines(f, info.Size(), n)
}

// Close closes the log's file.
func (t *Tail) Close() error { return t.file.Close() }

// Follow writes lines that are added to the log until ctx is done, across rotations. It reads
// the log immediately, and then whenever it receives from wake.
func (t *Tail) Follow(ctx context.Context, out *Writer, wake <-chan time.Time) error {
	for {
		// The successor is looked up before reading: a file with a successor no longer grows.
		next, err := t.successor()
		if err := errors.Join(err, t.read(out), out.Flush()); err != nil {
			return err
		}
		if next != nil {
			t.file.Close()
			t.file, t.offset = next, 0
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

// read writes the lines that were added since the last read.
func (t *Tail) read(out *Writer) error {
	for {
		text, err := audit.WholeLines(t.file, t.offset, readSize)
		if err != nil || len(text) == 0 {
			return err
		}
		if err := audit.Read(bytes.NewReader(text), out.Write); err != nil {
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
	next := t.path // also if t.file was removed
	if i := slices.IndexFunc(names, same); i >= 0 && i+1 < len(names) {
		next = names[i+1]
	}
	f, err := os.Open(next)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // the log is being rotated
	}
	return f, err
}
