package audit

import (
	"slices"
	"sync"
	"time"
)

// An Intent is a line that says what its caller is about to do. The log writes the line while the caller
// does it. Its methods may be called by one goroutine at a time.
type Intent struct {
	log      *Log
	line     *pending
	deadline time.Time
}

// Intend queues an entry that says what its caller is about to do, and marks the entry as Intended. It
// does not wait for the disk. The caller must not release the result before [Intent.Wait] has returned nil,
// must call [Intent.Withhold] if it does not release the result, and must call [Intent.Close] at the end in
// any case.
//
// If the process ends before that, the next Open names the line in an indoubt event.
func (l *Log) Intend(e Entry) (*Intent, error) {
	e.Intended, e.ClosedTo = true, closedTo(l)
	entry, err := encodeEntry(&e)
	if err != nil {
		return nil, err
	}
	i := &Intent{log: l, line: &pending{entry: entry, intended: true}, deadline: time.Now().Add(l.cfg.AppendTimeout)}
	l.intents.add(i.line)
	if err := i.line.send(l, i.deadline); err != nil {
		l.intents.close(i.line)
		return nil, err
	}
	return i, nil
}

// Wait returns when the line is on stable storage, Config.AppendTimeout after Intend at most. If it
// returns an error, the result must not be released: the line is not in the log, or it is followed by an
// unanswered event.
func (i *Intent) Wait() error {
	_, err := i.line.await(i.deadline)
	return err
}

// Withhold adds an entry which says why the result is not released, with the number of the intended line as
// NotReleased. It returns when the entry is on stable storage, Config.AppendTimeout after the call at most. If
// it returns an error, an unanswered event names the intended line as soon as the log can be written.
func (i *Intent) Withhold(e Entry) error {
	head, err := i.line.await(i.deadline)
	if err != nil { // the log does not have the line, or names it in an unanswered event
		return i.log.Append(e)
	}
	return i.log.Withhold(head.Seq, e)
}

// Close records that the caller is done: the result has left, or Wait or Withhold was called because it does
// not leave.
func (i *Intent) Close() {
	if i.line.caller.Load() != callerLeft { // otherwise the writer closes the line
		i.log.intents.close(i.line)
	}
}

// Withhold adds an entry which says why the result that the line with number seq is about was not released. It
// returns when the entry is on stable storage, after Config.AppendTimeout at most. If it returns an error,
// an unanswered event names the line as soon as the log can be written.
func (l *Log) Withhold(seq uint64, e Entry) error {
	e.NotReleased = seq
	err := l.Append(e)
	if err != nil {
		l.intents.name(seq)
	}
	return err
}

// closedTo returns the number up to which every intended line is closed: its result was released, or a
// line says that it was not.
func closedTo(l *Log) uint64 {
	head := l.Head().Seq // lines that have no number yet will have greater ones
	l.intents.mu.Lock()
	defer l.intents.mu.Unlock()
	for _, p := range l.intents.open {
		if p.number > 0 {
			head = min(head, p.number-1)
		}
	}
	return head
}

// intents are the intended lines that are not closed. The zero value has none. It is safe for concurrent use.
type intents struct {
	mu      sync.Mutex
	open    []*pending // guarded by mu, like the fields below and the fields number and withheld of a pending
	unnamed []uint64   // lines that an unanswered event must name
	last    uint64     // the greatest number of an intended line
}

func (s *intents) add(p *pending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = append(s.open, p)
}

// setNumber sets the number of an intended line. The log's head must reach it only afterwards.
func (s *intents) setNumber(p *pending, seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.number, s.last = seq, max(s.last, seq)
}

// close removes a line, unless an unanswered event must name it first.
func (s *intents) close(p *pending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !p.withheld {
		s.open = slices.DeleteFunc(s.open, func(one *pending) bool { return one == p })
	}
}

// name demands an unanswered event for the line with number seq.
func (s *intents) name(seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unnamed = append(s.unnamed, seq)
	for _, p := range s.open {
		p.withheld = p.withheld || p.number == seq
	}
}

// hasUnnamed reports whether an unanswered event must name lines.
func (s *intents) hasUnnamed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.unnamed) > 0
}

// takeUnnamed returns the lines that the next unanswered event must name.
func (s *intents) takeUnnamed() []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	unnamed := s.unnamed
	s.unnamed = nil
	return unnamed
}

// named closes the lines that an unanswered event names.
func (s *intents) named(lines []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = slices.DeleteFunc(s.open, func(p *pending) bool { return slices.Contains(lines, p.number) })
}

// becameClosed reports whether the last intended line is closed, and was not when only the lines up to
// before were.
func (s *intents) becameClosed(before, closed uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return before < s.last && s.last <= closed
}
