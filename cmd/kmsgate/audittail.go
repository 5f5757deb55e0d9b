package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

func (a *admin) tailCommand() *cobra.Command {
	var n int
	var follow bool
	cmd := &cobra.Command{
		Use: "tail [FILE]", Short: "Print the log's last lines, and those that come",
		Example: "  kmsgate audit tail\n  kmsgate audit tail -f -n 0 -o json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if n < 0 {
				return fmt.Errorf("-n: %d is not 0 or more", n)
			}
			return a.tail(cmd, args, n, follow)
		},
	}
	cmd.Flags().IntVarP(&n, "lines", "n", 10, "how many of the last lines to print")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with the lines that come, across rotation, until Ctrl-C")
	return cmd
}

func (a *admin) tail(cmd *cobra.Command, args []string, n int, follow bool) error {
	path, err := logPath(args)
	if err != nil {
		return err
	}
	names, err := filesOf(path)
	if err != nil {
		return err
	}
	lines, t, err := openTail(path, names, n)
	if err != nil {
		return err
	}
	defer func() { t.file.Close() }() // the one that is open then
	out := newLineWriter(cmd.OutOrStdout(), a.output.value())
	for _, line := range lines {
		if err := out.write(line); err != nil {
			return err
		}
	}
	if !follow {
		return out.Flush()
	}
	return t.follow(cmd.Context(), out)
}

// lastLines returns the last n lines of a file, and the offset behind them.
func lastLines(f *os.File, n int) ([]audit.Line, int64, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	return audit.LastLines(f, info.Size(), n)
}

// A tail is the place in a log up to which its lines were read.
type tail struct {
	path   string // of the log
	file   *os.File
	offset int64 // in file: the end of a whole line
}

// openTail gives the last n lines of a log's files, and the place behind them.
func openTail(path string, names []string, n int) (lines []audit.Line, t *tail, err error) {
	for i, name := range slices.Backward(names) {
		f, err := os.Open(name)
		if err != nil {
			return nil, t, err
		}
		older, end, err := lastLines(f, n-len(lines))
		if lines = append(older, lines...); i == len(names)-1 {
			t = &tail{path, f, end}
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

// followEvery is how often it is looked whether a log has grown.
const followEvery = 200 * time.Millisecond

// follow writes what is added to the log until ctx is done.
func (t *tail) follow(ctx context.Context, out *lineWriter) error {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
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
		case <-tick.C:
		}
	}
}

// read writes the lines that were added.
func (t *tail) read(out *lineWriter) error {
	for {
		text, err := audit.WholeLines(t.file, t.offset, 4<<20)
		if err != nil || len(text) == 0 {
			return err
		}
		if err := audit.Read(bytes.NewReader(text), out.write); err != nil {
			return err
		}
		t.offset += int64(len(text))
	}
}

// successor opens the file that the log goes on in behind the one that is open;
// nil if that is still the last.
func (t *tail) successor() (*os.File, error) {
	here, err := t.file.Stat()
	if err != nil {
		return nil, err
	}
	same := func(name string) bool {
		info, err := os.Stat(name)
		return err == nil && os.SameFile(info, here)
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
