package token

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/kmsgate/kmsgate/hsm"
)

// A job is work in a session for a waiting caller. It must be repeatable: if the token rejects
// the job, it gets a second try in a new session, and if the connection is lost during the
// job, the job starts again on the next connection.
type job struct {
	ctx    context.Context // the caller's; once it is done, the job is not begun
	do     func(*session) error
	losses int        // how many connections were lost during the job
	done   chan error // has room for one error, since the caller may have left

	refusal error // the error if the token works but rejects the job
}

// maxLosses is how many connections may be lost during one job. It makes a job that kills
// connections fail before its caller's deadline.
const maxLosses = 16

// A queue holds jobs for the workers that share it.
type queue struct {
	jobs chan *job
	// returned holds the unfinished jobs of a lost connection's workers. Each worker has at
	// most one job and takes a returned job before any other, so there are never more
	// returned jobs than workers.
	returned chan *job

	putting sync.Mutex   // held while jobs are put into jobs
	callers atomic.Int64 // callers whose jobs are queued or running
}

// newQueue makes a queue for size waiting jobs and the given number of workers.
func newQueue(size, workers int) *queue {
	return &queue{jobs: make(chan *job, size), returned: make(chan *job, workers)}
}

// put adds a job. The error is hsm.ErrBusy if the queue is full. Jobs whose callers have left
// do not count.
func (q *queue) put(j *job) error {
	q.putting.Lock()
	defer q.putting.Unlock()
	if len(q.jobs) == cap(q.jobs) {
		q.sweep()
	}
	select {
	case q.jobs <- j:
		return nil
	default:
		return hsm.ErrBusy
	}
}

// sweep removes the jobs whose callers have left. The caller holds putting.
func (q *queue) sweep() {
	for range len(q.jobs) {
		select {
		case j := <-q.jobs:
			if j.ctx.Err() == nil {
				q.jobs <- j // never blocks, because workers only take jobs
			}
		default:
			return
		}
	}
}

// next waits for a job. It returns nil if lost is closed.
func (q *queue) next(lost <-chan struct{}) *job {
	var j *job
	select {
	case j = <-q.returned:
	default:
		select {
		case <-lost:
			return nil
		case j = <-q.returned:
		case j = <-q.jobs:
		}
	}
	select {
	case <-lost: // both were ready, and a lost connection begins no job
		q.handBack(j, errLost)
		return nil
	default:
		return j
	}
}

var errLost = errors.New("the connection to it was lost")

// handBack returns an unfinished job of a lost connection to the queue for the next
// connection. If the job was lost maxLosses times, handBack fails it.
func (q *queue) handBack(j *job, reason error) {
	if j.losses++; j.losses < maxLosses {
		select {
		case q.returned <- j:
			return
		default:
		}
	}
	j.done <- fmt.Errorf("%w: %w", hsm.ErrUnavailable, reason)
}

// run hands do to a worker of q and waits for its result. If the token works but
// rejects do twice, the error is hsm.ErrRefused.
func run[T any](ctx context.Context, t *Token, q *queue, do func(*session) (T, error)) (T, error) {
	return runOr(ctx, t, q, hsm.ErrRefused, do)
}

// runOr is like run but returns refusal instead of hsm.ErrRefused.
func runOr[T any](ctx context.Context, t *Token, q *queue, refusal error, do func(*session) (T, error)) (T, error) {
	var zero T
	if err := ctx.Err(); err != nil {
		return zero, waitError(err)
	}
	// A channel and not a shared variable carries the result, because the worker may still
	// write it after the caller has left.
	result := make(chan T, 1)
	j := &job{ctx: ctx, refusal: refusal, done: make(chan error, 1), do: func(s *session) error {
		v, err := do(s)
		if err == nil {
			result <- v // never blocks, because the job is not repeated after a success
		}
		return err
	}}
	if q == t.jobs && !isPatient(ctx) {
		if err := occupied(t); err != nil {
			return zero, err
		}
	}
	if err := q.put(j); err != nil {
		return zero, err
	}
	q.callers.Add(1)
	defer q.callers.Add(-1)
	select {
	case err := <-j.done:
		if err != nil {
			return zero, err
		}
		return <-result, nil
	case <-ctx.Done():
		return zero, waitError(ctx.Err())
	case <-t.done:
		return zero, t.doneErr
	}
}

func waitError(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: no answer in time: %w", hsm.ErrUnavailable, err)
	}
	return err
}

// patient returns a context whose jobs wait until the token has time, even if it is making a key.
func patient(ctx context.Context) context.Context {
	return context.WithValue(ctx, patientKey{}, true)
}

func isPatient(ctx context.Context) bool { return ctx.Value(patientKey{}) != nil }

type patientKey struct{}
