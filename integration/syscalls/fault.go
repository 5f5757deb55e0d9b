package syscalls

import (
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A Fault is what an Injection does to calls.
type Fault struct {
	Calls []string        // the names of the calls that count
	Match func(Call) bool // a condition for them
	First int             // the first of them that gets the fault; zero means 1
	Once  bool            // no other call gets it; otherwise, all later ones do
	Errno unix.Errno      // the error that the call fails with; zero makes it hang
}

// An Injection makes calls fail or hang until it is lifted. Its methods are safe for concurrent use.
type Injection struct {
	end    func()
	lifted chan struct{}
	lift   sync.Once
	seen   atomic.Int64
	hits   atomic.Int64
}

// Inject makes calls of the program fail or hang.
func (w *Watch) Inject(f Fault) *Injection {
	i := &Injection{lifted: make(chan struct{})}
	first := int64(max(f.First, 1))
	i.end = w.Intercept(func(c Call) Action {
		if !slices.Contains(f.Calls, c.Name) || !f.Match(c) {
			return Action{}
		}
		n := i.seen.Add(1)
		if n < first || f.Once && n > first {
			return Action{}
		}
		i.hits.Add(1)
		if f.Errno == 0 {
			return Action{Until: i.lifted}
		}
		return Action{Errno: f.Errno}
	})
	return i
}

// Seen returns how many calls have counted so far.
func (i *Injection) Seen() int { return int(i.seen.Load()) }

// Hits returns how many calls have got the fault so far.
func (i *Injection) Hits() int { return int(i.hits.Load()) }

// Lift ends the injection. The calls that hang are then made.
func (i *Injection) Lift() {
	i.lift.Do(func() {
		i.end()
		close(i.lifted)
	})
}
