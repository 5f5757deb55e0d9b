package batch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/attestation"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/signer"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/internal/durable"
)

// A Runner runs a batch.
type Runner struct {
	Client   signer.Client
	In, Out  string                // the paths of the list and of the output
	Progress func(done, total int) // after each group of results; nil for none
	Waiting  func(err error)       // before a wait for a gateway that does not answer; nil for none
}

// Run answers every line of the list that has no result yet, writes the output, and has the gateway
// attest the manifest. If it fails, running it again continues; after it has succeeded, running it
// again changes nothing. Files that are not of this batch are an error, and stay.
func (r *Runner) Run(ctx context.Context) (m Manifest, err error) {
	if err := r.checkList(); err != nil {
		return m, err
	}
	start, err := r.scan()
	if err != nil {
		return m, err
	}
	if m, done, err := r.completed(ctx, start); done || err != nil {
		return m, err
	}
	if start.Instance, err = target.Instance(ctx, r.Client.Caller); err != nil {
		return m, err
	}
	j, err := openJournal(r.Out, start)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, j.close()) }()
	if _, err := os.Stat(r.Out); err == nil && len(j.runs) == 0 {
		// Another run has completed the batch since the look at the output: the journal is new.
		if err := j.remove(); err != nil {
			return m, err
		}
		m, done, err := r.completed(ctx, start)
		if err == nil && !done {
			err = fmt.Errorf("%s is gone again: run the same command again", r.Out)
		}
		return m, err
	}
	if err := r.checkBegin(j.begin, start); err != nil {
		return m, err
	}
	if err := r.answerAll(ctx, j); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return m, fmt.Errorf("%w (the results so far are kept: run the same command again to continue)", err)
	}
	return r.finish(ctx, j)
}

// ownFiles returns the paths of all files that a batch writes.
func (r *Runner) ownFiles() []string {
	return append(attestation.Files(ManifestPath(r.Out)), ManifestPath(r.Out), listPath(r.Out), journalPath(r.Out), r.Out)
}

// checkList refuses a list that the batch would replace or remove.
func (r *Runner) checkList() error {
	list, err := os.Stat(r.In)
	if err != nil {
		return err
	}
	for _, path := range r.ownFiles() {
		if info, err := os.Stat(path); err == nil && os.SameFile(info, list) {
			return fmt.Errorf("the list is %s, which the batch writes itself: copy the list to another name, or choose another output", path)
		}
	}
	return nil
}

// scan reads the list once, for its hash and its number of lines.
func (r *Runner) scan() (begin, error) {
	list, err := os.Open(r.In)
	if err != nil {
		return begin{}, err
	}
	defer list.Close()
	if info, err := list.Stat(); err != nil {
		return begin{}, err
	} else if !info.Mode().IsRegular() {
		return begin{}, fmt.Errorf("reading %q: it is not a regular file", r.In)
	}
	lines := newLineReader(list)
	for err == nil {
		_, err = lines.next()
	}
	if !errors.Is(err, io.EOF) {
		return begin{}, fmt.Errorf("reading %q: %w", r.In, err)
	}
	if lines.number == 0 {
		return begin{}, fmt.Errorf("reading %q: it is empty", r.In)
	}
	directory, err := os.Getwd()
	return begin{Format: format, Batch: uuid.NewString(), Directory: directory, Time: time.Now().UTC(), Requests: lines.sum(), Lines: lines.number}, err
}

// checkBegin checks that a journal is of this list and this instance.
func (r *Runner) checkBegin(begun, start begin) error {
	if begun.Requests != start.Requests {
		return fmt.Errorf("%s is not the list that this batch began with: restore it from the copy %s, or begin another batch, which signs every line again, with another output",
			r.In, listPath(r.Out))
	}
	if begun.Directory != start.Directory {
		return fmt.Errorf("this batch began in %s, where its list names files: run the command there", begun.Directory)
	}
	if begun.Instance != start.Instance {
		return fmt.Errorf("this batch began at instance %s, and this is %s: name the gateway of the first", begun.Instance, start.Instance)
	}
	return nil
}

// listPath is the path of the copy of the list that the batch began with.
func listPath(out string) string { return journalPath(out) + ".list" }

// openList opens the copy of the list. It makes the copy if it is missing or another batch's.
func (r *Runner) openList(begun begin) (*os.File, error) {
	path := listPath(r.Out)
	if sum, err := fileHash(path); errors.Is(err, fs.ErrNotExist) || err == nil && sum != begun.Requests {
		err := durable.Replace(path, 0o600, func(w io.Writer) error {
			list, err := os.Open(r.In)
			if err != nil {
				return err
			}
			defer list.Close()
			lines := newLineReader(io.TeeReader(list, w))
			for err == nil {
				_, err = lines.next()
			}
			if errors.Is(err, io.EOF) && lines.sum() != begun.Requests {
				return fmt.Errorf("%s was changed while it was read: restore it", r.In)
			}
			if !errors.Is(err, io.EOF) {
				return err
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("copying the list: %w", err)
		}
	} else if err != nil {
		return nil, err
	}
	return os.Open(path)
}

// answerAll answers the lines that have no result.
func (r *Runner) answerAll(ctx context.Context, j *journal) (err error) {
	if j.done == j.begin.Lines {
		return nil
	}
	list, err := r.openList(j.begin)
	if err != nil {
		return err
	}
	defer list.Close()
	s, err := newSignatory(r.Client, j, r.Waiting)
	if err != nil {
		return err
	}
	lines := newLineReader(list)
	for lines.number < j.done {
		if _, err := lines.next(); err != nil {
			return fmt.Errorf("reading %q: %w", list.Name(), err)
		}
	}
	if err := j.startRun(time.Now()); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	answers := make(chan answer, Window+1) // room for every line in flight, and for an error of the list
	slots := make(chan struct{}, Window)   // one for each line from its start until it and all before it are in the journal
	ahead := make(map[int]bool)            // lines that an earlier run has answered
	for n := range j.ahead {
		ahead[n] = true
	}
	running.Go(func() {
		if err := startAnswers(ctx, s, lines, j.begin, ahead, slots, answers, &running); err != nil {
			answers <- answer{err: err}
			cancel() // nothing takes slots any more
		}
	})
	for err == nil && j.done < j.begin.Lines {
		err = r.record(ctx, j, nextGroup(answers), slots)
	}
	cancel()
	running.Wait()
	if len(answers) > 0 { // answers that came in between: these lines are not asked for again
		if lastErr := r.record(ctx, j, nextGroup(answers), slots); err == nil {
			err = lastErr
		}
	}
	return err
}

// An answer is a result on its way to the journal.
type answer struct {
	result Result
	err    error
}

// startAnswers starts to answer each line as soon as it has a slot, except those that are answered.
func startAnswers(ctx context.Context, s *signatory, lines *lineReader, begun begin, answered map[int]bool,
	slots chan<- struct{}, answers chan<- answer, running *sync.WaitGroup,
) error {
	for lines.number < begun.Lines {
		l, err := lines.next()
		if err != nil {
			return fmt.Errorf("reading the copy of the list: %w", err)
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		if answered[l.number] {
			continue
		}
		running.Go(func() {
			result, err := s.answer(ctx, l)
			answers <- answer{result, err} // it has room for every slot
		})
	}
	if lines.sum() != begun.Requests {
		return errors.New("the copy of the list was changed while it was read: begin the batch again, with another output")
	}
	return nil
}

// nextGroup waits for an answer, and returns it with those that are there already.
func nextGroup(answers <-chan answer) []answer {
	group := []answer{<-answers}
	for {
		select {
		case a := <-answers:
			group = append(group, a)
		default:
			return group
		}
	}
}

// record writes results to the journal, and frees the slots of lines that no line before them waits
// for. It returns the first error among the answers, after it has written the others.
func (r *Runner) record(ctx context.Context, j *journal, group []answer, slots <-chan struct{}) error {
	var records []record
	for i := range group {
		if group[i].err == nil {
			records = append(records, record{Result: &group[i].result})
		}
	}
	before := j.done
	if len(records) > 0 {
		if err := j.append(records...); err != nil {
			return err
		}
	}
	for range j.done - before {
		select {
		case <-slots:
		case <-ctx.Done(): // of a line that an earlier run answered, the slot may never be taken
		}
	}
	if i := slices.IndexFunc(group, func(a answer) bool { return a.err != nil }); i >= 0 {
		return group[i].err
	}
	if r.Progress != nil {
		r.Progress(j.done, j.begin.Lines)
	}
	return nil
}
