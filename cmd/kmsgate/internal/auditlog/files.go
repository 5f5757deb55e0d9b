package auditlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/kmsgate/kmsgate/gateway/audit"
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

// A file reads the lines of one of a log's files. It opens the file when it is first read, because
// a log can have more files than a process may open. It decompresses a compressed file.
type file struct {
	ctx     context.Context
	name    string
	rotated bool // the file is rotated: an operator may compress it and the gateway may delete it
	opened  *os.File
	lines   io.Reader
	stop    func() bool // ends the wait for ctx
}

// named returns the files with these names.
func named(ctx context.Context, names []string) []*file {
	files := make([]*file, len(names))
	for i, name := range names {
		files[i] = &file{ctx: ctx, name: name}
	}
	return files
}

// maxLists is the maximum number of attempts to list a log's files while they change.
const maxLists = 100

// ofLog returns all files of the log at a path. It opens the last one, because the gateway renames
// the current file when that is full.
func ofLog(ctx context.Context, path string) ([]*file, error) {
	for range maxLists {
		names, err := Files(path)
		if err != nil {
			return nil, err
		}
		files := named(ctx, names)
		for _, f := range files {
			f.rotated = f.name != path
		}
		last := files[len(files)-1]
		if err := last.open(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		again, err := audit.Files(path)
		if err != nil {
			return nil, errors.Join(err, last.Close())
		}
		if slices.Equal(names, again) {
			return files, nil
		}
		last.Close() // nothing was read
	}
	return nil, fmt.Errorf("cannot list the files of the audit log %q, because they change continually", path)
}

// open opens the file, or the compressed one that has replaced it.
func (f *file) open() error {
	opened, err := os.Open(f.name)
	if f.rotated && errors.Is(err, fs.ErrNotExist) {
		if compressed, compressedErr := os.Open(f.name + ".gz"); compressedErr == nil {
			opened, err = compressed, nil
		}
	}
	if err != nil {
		return err
	}
	f.opened, f.lines = opened, audit.Decompress(opened.Name(), opened)
	f.stop = context.AfterFunc(f.ctx, func() { opened.Close() }) // ends a blocked read
	return nil
}

// Read reads the lines. A rotated file that no longer exists is empty: the numbers of the following
// lines show whether the gateway has deleted it.
func (f *file) Read(p []byte) (int, error) {
	if f.lines == nil {
		err := f.open()
		if f.rotated && errors.Is(err, fs.ErrNotExist) {
			return 0, io.EOF
		}
		if err != nil {
			return 0, err
		}
	}
	n, err := f.lines.Read(p)
	if err != nil {
		f.Close() // without this, the files that were read stay open until all are
	}
	return n, err
}

// Close closes the file if it is open.
func (f *file) Close() error {
	if f.opened == nil {
		return nil
	}
	f.stop()
	err := f.opened.Close()
	f.opened = nil
	return err
}
