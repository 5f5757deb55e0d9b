// Package logsink keeps a log from disturbing the program that writes it. A [Sink] is an
// [io.Writer] in front of standard error that never waits for the reader. [LimitErrors] keeps a
// lasting fault from filling the log.
package logsink

import (
	"bytes"
	"io"
	"sync"
	"time"
)

const (
	// FlushTime is how long the end of a process may wait for its last lines to be written.
	FlushTime = time.Second

	// maxPending is the most bytes that wait for the file. With 300 bytes a line, that is the
	// log of a second with 3,000 requests at level debug.
	maxPending = 1 << 20
	// lineCost is the memory that a waiting line takes besides its text.
	lineCost = 64
)

// A Sink writes lines to a file, one after the other, and never makes its callers wait. Each call
// of Write is a line. At most 1 MiB of lines wait for the file. The Sink drops lines beyond that,
// and lines that the file refuses. It counts them, and reports their number in a line once the file
// takes lines again. The methods are safe for concurrent use. Use [New].
type Sink struct {
	file   io.Writer
	report func(dropped uint64) []byte // returns the line that reports dropped lines
	ended  chan struct{}               // closed when run has returned
	filled sync.Cond                   // signals a new line, or closing; its lock is mu

	mu      sync.Mutex // guards what follows
	lines   []line
	pending int    // bytes of lines and of the line that is being written
	dropped uint64 // lines since New
	untold  uint64 // dropped lines that no line reports yet
	closing bool
}

// A line waits for the file.
type line struct {
	text    []byte
	reports uint64 // the dropped lines that this line reports; 0 for a line of the log
}

func (l line) cost() int { return len(l.text) + lineCost }

// New returns a Sink in front of file. report returns the line for a number of dropped lines. The
// caller must close the Sink.
func New(file io.Writer, report func(dropped uint64) []byte) *Sink {
	s := &Sink{file: file, report: report, ended: make(chan struct{})}
	s.filled.L = &s.mu
	go s.run()
	return s
}

// Write queues a line, or drops it. It never waits for the file, and always returns len(text), nil.
func (s *Sink) Write(text []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || s.pending+len(text)+lineCost > maxPending {
		s.drop(line{})
		return len(text), nil
	}
	s.tell()
	s.queue(line{text: bytes.Clone(text)})
	return len(text), nil
}

// Dropped returns how many lines were dropped since New.
func (s *Sink) Dropped() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped
}

// Close waits until the queued lines are written, at most for limit. Lines that come later are
// dropped. Close of a nil Sink does nothing.
func (s *Sink) Close(limit time.Duration) {
	if s == nil {
		return
	}
	s.mu.Lock()
	s.closing = true
	s.filled.Signal()
	s.mu.Unlock()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-s.ended:
	case <-timer.C:
	}
}

// run writes the queued lines until Close.
func (s *Sink) run() {
	defer close(s.ended)
	torn := false // the file ends in the middle of a line
	for {
		l, ok := s.next()
		if !ok {
			return
		}
		text := l.text
		if torn {
			text = append([]byte{'\n'}, text...)
		}
		n, err := s.file.Write(text)
		if n > 0 {
			torn = n < len(text)
		}
		s.wrote(l, err)
	}
}

// next waits for a line and removes it from the queue. It returns false if there is none and the
// Sink is closing.
func (s *Sink) next() (line, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.lines) == 0 {
		if s.closing {
			return line{}, false
		}
		s.filled.Wait()
	}
	l := s.lines[0]
	s.lines[0] = line{} // releases the text
	s.lines = s.lines[1:]
	return l, true
}

// wrote records that the file has taken a line, or refused it with err.
func (s *Sink) wrote(l line, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending -= l.cost()
	switch {
	case err != nil:
		s.drop(l) // the report waits for the next line, since the file would refuse it now
	case len(s.lines) == 0:
		s.tell()
	}
}

// drop counts a line that is not written. s.mu must be held, as for the methods below.
func (s *Sink) drop(l line) {
	if l.reports > 0 {
		s.untold += l.reports
		return
	}
	s.dropped++
	s.untold++
}

// tell queues the report of the lines that were dropped.
func (s *Sink) tell() {
	if s.untold > 0 {
		s.queue(line{s.report(s.untold), s.untold})
		s.untold = 0
	}
}

func (s *Sink) queue(l line) {
	s.lines = append(s.lines, l)
	s.pending += l.cost()
	s.filled.Signal()
}

// Within calls f and waits until it returns, at most for limit. It is for output that nobody may
// read.
func Within(limit time.Duration, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}
