package batch

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

func newReader(line []byte) io.Reader { return bytes.NewReader(line) }

// newScanner returns a scanner of lines.
func newScanner(r io.Reader) *bufio.Scanner {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, maxLine), maxLine)
	return s
}

// A Resumption is a continuation of a batch after a run that ended early.
type Resumption struct {
	After  int // the last line whose result was in the output
	Window int // as many lines after that one may have been signed twice
}

// Run answers every line of the list that has no result yet, and then writes the manifest and its
// signature. If it fails, running it again continues.
func (r *Runner) Run(ctx context.Context) (m Manifest, err error) {
	list, err := os.Open(r.In)
	if err != nil {
		return m, err
	}
	defer list.Close()
	out, err := os.OpenFile(r.Out, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	lines := newScanner(list)
	done, err := r.skipDone(lines, out)
	if err != nil {
		return m, err
	}
	if done > 0 {
		if err := r.recordResumption(done); err != nil {
			return m, err
		}
	}
	if err := r.answer(ctx, lines, done, out); err != nil {
		return m, fmt.Errorf("%w (run the same command again to continue)", err)
	}
	if err := out.Sync(); err != nil {
		return m, err
	}
	return r.attest(ctx)
}

// skipDone reads the results in the output together with the lines of the list that they answer,
// and cuts off an incomplete result at its end. It returns the number of results.
func (r *Runner) skipDone(lines *bufio.Scanner, out *os.File) (done int, err error) {
	results := bufio.NewReaderSize(out, maxLine)
	var end int64
	for {
		text, err := results.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break // what is left is no complete line
		}
		if err != nil {
			return 0, err
		}
		var result Result
		if err := decode(text, &result); err != nil || result.Line != done+1 {
			return 0, fmt.Errorf("%s:%d is not the result of line %d: move the file away, or restore it", r.Out, done+1, done+1)
		}
		if !lines.Scan() {
			return 0, errors.Join(fmt.Errorf("%s has more results than %s has lines", r.Out, r.In), lines.Err())
		}
		if requestHash(lines.Bytes()) != result.Request {
			return 0, fmt.Errorf("%s:%d was changed after it was answered: use the same list, or another output", r.In, done+1)
		}
		done++
		end += int64(len(text))
	}
	if err := out.Truncate(end); err != nil {
		return 0, err
	}
	_, err = out.Seek(end, io.SeekStart)
	return done, err
}

func (r *Runner) recordResumption(done int) error {
	text, err := json.Marshal(Resumption{done, Window})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(r.resumedPath(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	return errors.Join(err, f.Sync(), f.Close())
}

// An answer is a result on its way to the output.
type answer struct {
	result Result
	err    error
}

// answer answers the lines after done. At most Window of them are in flight, and results are
// written in the order of the lines.
func (r *Runner) answer(ctx context.Context, lines *bufio.Scanner, done int, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pending := make(chan chan answer, Window-1) // the writer holds one more
	read := make(chan error, 1)
	go func() {
		defer close(pending)
		read <- r.begin(ctx, lines, done, pending)
	}()
	for next := range pending {
		a := <-next
		if a.err != nil {
			cancel()
			for range pending { // until the reader has stopped
			}
			return errors.Join(a.err, ctxError(<-read, ctx))
		}
		text, err := json.Marshal(a.result)
		if err != nil {
			return err
		}
		if _, err := out.Write(append(text, '\n')); err != nil {
			return err
		}
		if r.Progress != nil {
			r.Progress(a.result.Line)
		}
	}
	return <-read
}

// ctxError drops the error of a context that was only cancelled because of another error.
func ctxError(err error, ctx context.Context) error {
	if errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

// begin starts to answer every line.
func (r *Runner) begin(ctx context.Context, lines *bufio.Scanner, done int, pending chan<- chan answer) error {
	for n := done + 1; lines.Scan(); n++ {
		next := make(chan answer, 1)
		select {
		case pending <- next:
		case <-ctx.Done():
			return ctx.Err()
		}
		result, k, err := r.prepare(ctx, n, bytes.Clone(lines.Bytes()))
		if err != nil || result.Error != "" {
			next <- answer{result, err}
			continue
		}
		go func() {
			result, err := r.sign(ctx, k, result)
			next <- answer{result, err}
		}()
	}
	return lines.Err()
}
