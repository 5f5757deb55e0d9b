package token

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/kmsgate/kmsgate/hsm"
)

// A job is one piece of work for a session, on behalf of a waiting caller. It can be
// repeated: if the token refuses it, it gets a second try in a new session, and if the
// connection is lost during it, it starts again on the next one.
type job struct {
	ctx    context.Context // the caller's: a job whose caller has left is not begun
	do     func(*session) error
	losses int        // how many connections were lost over it
	done   chan error // takes one error without waiting: the caller may have left

	refusal error // the error if the token works but rejects the job
}

// maxLosses bounds how many connections one job may take with it, so that a job
// which kills them ends before its caller's patience does.
const maxLosses = 16

// A queue is where jobs wait for the workers that share it.
type queue struct {
	jobs chan *job
	// returned holds the jobs that a lost connection's workers had in hand. Each
	// of them has one at most, and takes one of these before any other, so there
	// are never more than workers.
	returned chan *job

	putting sync.Mutex   // held while jobs are put into jobs
	callers atomic.Int64 // waiting for a job that is in jobs, or under way
}

// newQueue makes a queue in which so many jobs can wait.
func newQueue(size, workers int) *queue {
	return &queue{jobs: make(chan *job, size), returned: make(chan *job, workers)}
}

// put adds a job, or is hsm.ErrBusy. Jobs whose callers have left take no room
// from those whose callers wait.
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

// sweep takes out the jobs whose callers have left. putting must be held.
func (q *queue) sweep() {
	for range len(q.jobs) {
		select {
		case j := <-q.jobs:
			if j.ctx.Err() == nil {
				q.jobs <- j // there is room: workers only take
			}
		default:
			return
		}
	}
}

// next waits for a job. It returns nil when lost is closed.
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
	case <-lost: // both were ready; this connection begins nothing more
		q.handBack(j, errLost)
		return nil
	default:
		return j
	}
}

var errLost = errors.New("the connection to it is lost")

// handBack puts a job that a lost connection did not finish back for its
// successor, or fails it.
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
	// The result travels in a channel and not in a shared variable: when the
	// caller leaves early the worker may still write it.
	result := make(chan T, 1)
	j := &job{ctx: ctx, refusal: refusal, done: make(chan error, 1), do: func(s *session) error {
		v, err := do(s)
		if err == nil {
			result <- v // it is not done again
		}
		return err
	}}
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
		return fmt.Errorf("%w: it did not answer in time: %w", hsm.ErrUnavailable, err)
	}
	return err
}
