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
	ended    bool // Wait has failed, or Withhold was called
}

// Intend queues an entry that says what its caller is about to do, and marks the entry as Intended. It
// does not wait for the disk. The caller must not release the result before [Intent.Wait] returns nil. If it
// withholds the result for another reason, it must call [Intent.Withhold]. It must call [Intent.Close] last.
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
	i.ended = i.ended || err != nil
	return err
}

// Withhold adds an entry which says why the result is not released, with the number of the intended line as
// NotReleased. It returns when the entry is on stable storage, Config.AppendTimeout after the call at most. If
// it returns an error, an unanswered event names the intended line as soon as the log can be written.
func (i *Intent) Withhold(e Entry) error {
	i.ended = true
	head, err := i.line.await(i.deadline)
	if err != nil { // the log does not have the line, or names it in an unanswered event
		return i.log.Append(e)
	}
	return i.log.Withhold(head.Seq, e)
}

// Close ends the intent. released says that the result may have left. If it has not, and neither has Wait failed
// nor was Withhold called, an unanswered event names the line.
func (i *Intent) Close(released bool) {
	switch {
	case !released && !i.ended:
		i.abandon()
	case i.line.caller.Load() != callerLeft: // otherwise the writer closes the line
		i.log.intents.close(i.line)
	}
}

// abandon has an unanswered event name the line, if the log has it.
func (i *Intent) abandon() {
	if i.line.caller.CompareAndSwap(callerWaits, callerLeft) {
		return // the writer names the line if it writes it
	}
	if head, err := i.line.await(i.deadline); err == nil {
		i.log.intents.name(head.Seq)
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
	last    uint64     // the last intended line on stable storage
}

func (s *intents) add(p *pending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = append(s.open, p)
}

// setNumber sets the number of an intended line. It must be called before the log's head includes the line.
func (s *intents) setNumber(p *pending, seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.number = seq
}

// close removes a line, unless an unanswered event must name it first.
func (s *intents) close(p *pending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !p.withheld {
		s.open = slices.DeleteFunc(s.open, func(one *pending) bool { return one == p })
	}
}

// isOpen reports whether a line is not closed.
func (s *intents) isOpen() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open) > 0
}

// name demands an unanswered event for the line with number seq.
func (s *intents) name(seq uint64) {
	if seq == 0 {
		return // the log does not have the line
	}
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

// flushed records the last intended line on stable storage, or 0, and closes the lines that an unanswered event
// there names.
func (s *intents) flushed(last uint64, named []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = max(s.last, last)
	s.open = slices.DeleteFunc(s.open, func(p *pending) bool { return slices.Contains(named, p.number) })
}

// becameClosed reports whether the last intended line is closed, and was not when only the lines up to
// before were.
func (s *intents) becameClosed(before, closed uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return before < s.last && s.last <= closed
}
