package batch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/signer"
)

// A Runner runs a batch.
type Runner struct {
	Client   signer.Client
	In, Out  string                // the paths of the list and of the output
	Progress func(done, total int) // after each group of results; nil for none
	Waiting  func(err error)       // before each wait for a gateway that does not answer; nil for none
}

// Run answers every line of the list that has no result yet, writes the output, and has the gateway
// attest the manifest. If it fails, running it again continues; after it has succeeded, running it
// again changes nothing. An output that is another batch's, or no batch's, is an error.
func (r *Runner) Run(ctx context.Context) (m Manifest, err error) {
	list, err := os.Open(r.In)
	if err != nil {
		return m, err
	}
	defer list.Close()
	start, err := scan(list)
	if err != nil {
		return m, fmt.Errorf("reading %q: %w", r.In, err)
	}
	if m, done, err := r.completed(start); done || err != nil {
		return m, err
	}
	j, err := openJournal(r.Out, start)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, j.close()) }()
	err = r.answerAll(ctx, list, start, j)
	if errors.Is(err, errEnded) {
		if err := j.remove(); err != nil {
			return m, err
		}
		m, _, err = r.completed(start)
		return m, err
	}
	if err != nil {
		return m, fmt.Errorf("%w (the results so far are kept: run the same command again to continue)", err)
	}
	return r.finish(ctx, j)
}

// errEnded means that another run has completed the batch between the look at the output and the
// lock of the journal, which is therefore new.
var errEnded = errors.New("the batch has ended")

// scan reads a list once, for its hash and its number of lines.
func scan(list *os.File) (begin, error) {
	if info, err := list.Stat(); err != nil || !info.Mode().IsRegular() {
		return begin{}, errors.Join(errors.New("it is not a regular file"), err)
	}
	lines := newLineReader(list)
	for {
		if _, err := lines.next(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return begin{}, err
		}
	}
	if lines.number == 0 {
		return begin{}, errors.New("it is empty")
	}
	return begin{Format: format, Batch: uuid.NewString(), Time: time.Now().UTC(), Requests: lines.sum(), Lines: lines.number}, nil
}

// waitBetween is the time between two tries to reach a gateway.
const waitBetween = time.Second

// answerAll answers all lines that have no result. It starts again after an error that may pass, until
// no line gets a result for as long as Patience.
func (r *Runner) answerAll(ctx context.Context, list io.ReadSeeker, start begin, j *journal) error {
	progress, before := time.Now(), -1
	for {
		err := r.pass(ctx, list, start, j)
		if err == nil || !mayPass(err) || ctx.Err() != nil {
			return err
		}
		if j.results > before {
			progress, before = time.Now(), j.results
		}
		if time.Since(progress) > Patience {
			return err
		}
		if r.Waiting != nil {
			r.Waiting(err)
		}
		select {
		case <-time.After(waitBetween):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// pass answers the lines that have no result, until an error.
func (r *Runner) pass(ctx context.Context, list io.ReadSeeker, start begin, j *journal) error {
	if _, err := list.Seek(0, io.SeekStart); err != nil {
		return err
	}
	lines := newLineReader(list)
	*j = journal{file: j.file, keys: make(map[string]*Key)}
	err := j.replay(func(result Result) error {
		l, err := lines.next()
		if err != nil || l.hash != result.Request {
			return errors.Join(fmt.Errorf("it does not answer line %d of %s: restore the list, or move the journal away to begin again", result.Line, r.In), err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if j.begin.Requests != start.Requests {
		return fmt.Errorf("%s is not the list that this batch began with: restore it, or move %s away to begin again", r.In, journalPath(r.Out))
	}
	if j.results == j.begin.Lines {
		return nil
	}
	if _, err := os.Lstat(r.Out); err == nil && len(j.runs) == 0 {
		return errEnded
	}
	if err := j.startRun(time.Now()); err != nil {
		return err
	}
	s := &signatory{client: r.Client, batch: j.begin.Batch, keys: make(map[string]signer.Key), used: make(map[string]bool)}
	for id := range j.keys {
		s.used[id] = true
	}
	if err := r.answer(ctx, s, lines, j); err != nil {
		return err
	}
	if lines.sum() != start.Requests || j.results != start.Lines {
		return fmt.Errorf("%s was changed while it was read: restore it, and run the batch with another output", r.In)
	}
	return nil
}

// An answer is a result on its way to the journal.
type answer struct {
	ready  chan struct{} // closed when the others are set
	result Result
	key    signer.Key
	err    error
}

// answer answers the lines that are left. Results are written in the order of the lines. At most
// Window lines are between their request and the journal. When answer returns, nothing of it is
// left running.
func (r *Runner) answer(ctx context.Context, s *signatory, lines *lineReader, j *journal) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	slots := make(chan struct{}, Window)
	pending := make(chan *answer, Window)
	var readErr error // set before pending is closed
	running.Go(func() {
		defer close(pending)
		readErr = begunAnswers(ctx, s, lines, j.begin.Lines, slots, pending, &running)
	})
	for q := (queue{pending: pending}); ; {
		group, err := q.next()
		if writeErr := writeGroup(j, group); writeErr != nil {
			return writeErr
		}
		if err != nil {
			return err
		}
		if group == nil {
			return readErr
		}
		for range group {
			<-slots
		}
		if r.Progress != nil {
			r.Progress(j.results, j.begin.Lines)
		}
	}
}

// begunAnswers starts to answer each line as soon as it has a slot, up to the last that the list had
// when the batch began.
func begunAnswers(ctx context.Context, s *signatory, lines *lineReader, last int, slots chan<- struct{}, pending chan<- *answer, running *sync.WaitGroup) error {
	for lines.number < last {
		l, err := lines.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		a := &answer{ready: make(chan struct{})}
		pending <- a // it has room for every slot
		running.Go(func() {
			defer close(a.ready)
			a.result, a.key, a.err = s.answer(ctx, l)
		})
	}
	return nil
}

// A queue holds answers in the order of their lines.
type queue struct {
	pending <-chan *answer
	head    *answer // taken from pending, but not returned by next
}

// next waits for the next answer, and returns it with those after it that are ready, up to one with an
// error. It returns nothing when no answer is left.
func (q *queue) next() (group []*answer, err error) {
	if q.head == nil {
		q.head = <-q.pending // nil if it is closed
	}
	if q.head != nil {
		<-q.head.ready
	}
	for q.head != nil {
		select {
		case <-q.head.ready:
		default:
			return group, nil
		}
		if q.head.err != nil {
			return group, q.head.err
		}
		group = append(group, q.head)
		select {
		case q.head = <-q.pending:
		default:
			q.head = nil
		}
	}
	return group, nil
}

// writeGroup writes results to the journal, each key version before its first result.
func writeGroup(j *journal, group []*answer) error {
	var records []record
	recorded := make(map[string]bool)
	for _, a := range group {
		id := a.result.KeyVersionId
		if a.result.Error == "" && j.keys[id] == nil && !recorded[id] {
			recorded[id] = true
			records = append(records, record{Key: &Key{KeyId: a.key.KeyId, KeyVersionId: id, KeySpec: string(a.key.Spec()), PublicKey: a.key.Public()}})
		}
		records = append(records, record{Result: &a.result})
	}
	if len(records) == 0 {
		return nil
	}
	return j.append(records...)
}
