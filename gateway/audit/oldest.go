package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"time"
)

// errUnproven is verify's error if no checkpoint covers the whole file yet.
var errUnproven = errors.New("no checkpoint covers the end of the file yet")

// verify verifies the oldest file. It reads on until a checkpoint covers the file's end, and returns
// that end: the line that the next file follows.
func (r *retention) verify(ctx context.Context, files []version) (Head, error) {
	v := newReading(Verifier{Key: r.log.cfg.Key})
	v.beginning.known = r.begins
	if err := read(ctx, v, files[0]); err != nil {
		return Head{}, err
	}
	if v.result.Lines == 0 {
		return Head{}, errors.New("the file has no line")
	}
	r.newest = timed{files[0], v.newest}
	var end *Head // nil before the next line
	v.done = func() bool {
		if end == nil {
			end = v.follows
		}
		return v.result.Proven.Seq >= end.Seq
	}
	for _, next := range files[1:] {
		err := read(ctx, v, next)
		if errors.Is(err, errDone) {
			return *end, r.checkBeginning(ctx, v.beginning, files)
		}
		if err != nil {
			return Head{}, err
		}
	}
	return Head{}, errUnproven
}

// read reads a file until the reading is done, with the error errDone, or until ctx is done.
func read(ctx context.Context, v *reading, f version) error {
	content, err := openFile(f.path)
	if err != nil {
		return err
	}
	defer content.Close()
	return v.file(File{filepath.Base(f.path), &stoppableReader{ctx, content}})
}

// A stoppableReader returns an error once ctx is done.
type stoppableReader struct {
	ctx context.Context
	r   io.Reader
}

func (s *stoppableReader) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.r.Read(p)
}

// checkBeginning returns an error if the log does not begin with line 1 and nothing in it explains
// that. Deleting the oldest file would then hide that earlier lines are missing. If the operator
// accepts the loss, checkBeginning records that in the log instead.
func (r *retention) checkBeginning(ctx context.Context, b beginning, files []version) error {
	if b.after.Seq == 0 || b.explained {
		return nil
	}
	for i, f := range slices.Backward(files) { // the event is the last of its kind, or the one before
		mentioned, err := mentions(ctx, f, b)
		if err != nil {
			return err
		}
		if !mentioned {
			continue
		}
		explained, err := r.explains(ctx, files[i:], b)
		if explained || err != nil {
			return err
		}
	}
	if !r.log.cfg.AcceptLoss {
		return fmt.Errorf("the log begins with line %d: %s, and no line proves that retention deleted them: %w",
			b.after.Seq+1, missingLines(1, b.after.Seq), ErrFilesMissing)
	}
	_, err := r.log.append(Event{Time: time.Now().UTC(), Kind: KindLost,
		Lost: "accepted by the operator at start: " + missingLines(1, b.after.Seq)}, 0)
	if err == nil {
		r.begins = b.after
	}
	return err
}

// explains reports whether a deleted event in files explains a beginning.
func (r *retention) explains(ctx context.Context, files []version, b beginning) (bool, error) {
	v := newReading(Verifier{Key: r.log.cfg.Key})
	v.beginning.sought = b.after
	v.done = func() bool { return v.beginning.explained }
	for _, f := range files {
		if err := read(ctx, v, f); err != nil {
			return errors.Is(err, errDone), notDone(err)
		}
	}
	return false, nil
}

// notDone returns err unless it is errDone.
func notDone(err error) error {
	if errors.Is(err, errDone) {
		return nil
	}
	return err
}

// mentions reports whether a file has a deleted event that can explain a beginning.
func mentions(ctx context.Context, f version, b beginning) (bool, error) {
	content, err := openFile(f.path)
	if err != nil {
		return false, err
	}
	defer content.Close()
	s := scanLines(&stoppableReader{ctx, content})
	for s.Scan() {
		if !bytes.Contains(s.Bytes(), []byte(`"Deleted":{`)) { // parsing every line takes ten times as long
			continue
		}
		line, ok := parseLine(s.Bytes())
		if ok && line.hasKind(KindDeleted) && line.Event.Deleted != nil && b.matches(line.Event.Deleted.Head) {
			return true, nil
		}
	}
	if err := s.Err(); err != nil {
		return false, fmt.Errorf("reading %q: %w", f.path, err)
	}
	return false, nil
}
