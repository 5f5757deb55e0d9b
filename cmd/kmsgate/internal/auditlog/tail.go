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

// A Tail is the place in a log up to which its lines were read. Close it when done.
type Tail struct {
	path   string // of the log
	file   *os.File
	offset int64 // in file: the end of a whole line
}

// OpenTail returns the last n lines of the log at a path, and the place behind them.
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
			return nil, t, fmt.Errorf("reading %s: %w", name, err)
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

// Close ends reading.
func (t *Tail) Close() error { return t.file.Close() }

// Follow writes what is added to the log until ctx is done, across rotations. It
// looks at the log at once, and then each time that wake tells it to.
func (t *Tail) Follow(ctx context.Context, out *Writer, wake <-chan time.Time) error {
	for {
		// In this order: a file that has a successor does not grow any more.
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

// atOnce is how many bytes of what was added are read together.
const atOnce = 4 << 20

// read writes the lines that were added.
func (t *Tail) read(out *Writer) error {
	for {
		text, err := audit.WholeLines(t.file, t.offset, atOnce)
		if err != nil || len(text) == 0 {
			return err
		}
		if err := audit.Read(bytes.NewReader(text), out.Write); err != nil {
			return err
		}
		t.offset += int64(len(text))
	}
}

// successor opens the file in which the log continues behind the one that is open;
// nil if that is still the last.
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
	next := t.path // if the one that is open was removed
	if i := slices.IndexFunc(names, same); i >= 0 && i+1 < len(names) {
		next = names[i+1]
	}
	f, err := os.Open(next)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // it is being rotated
	}
	return f, err
}
