package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// pending is a line on its way to the writer.
type pending struct {
	entry  []byte // JSON; nil if there is no line
	rotate uint64 // end the file with this first line, unless it has ended; 0 for none
	head   Head   // the written line; set before result is sent
	result chan error
	caller atomic.Int32 // callerWaits at first

	offered bool // no request depends on the line

	// unattended, if not nil, gets the result if no caller waits for it. The line is then written even
	// if its caller has left.
	unattended func(err error)
}

// The states of the caller of a pending line.
const (
	callerWaits = iota
	callerLeft
	callerAnswered // or about to be
)

// appendTimeout is the default of Config.AppendTimeout. SDKs wait about as long for a signature.
const appendTimeout = 2500 * time.Millisecond

// ErrSlow is the error of Append for a line that was not flushed within Config.AppendTimeout. It names the
// default.
var ErrSlow = fmt.Errorf("writing the audit log: the file was not flushed within %v (check the disk)", appendTimeout)

// errFull is the error of a line that could not even be queued.
var errFull = errors.New("writing the audit log: lines arrive faster than they can be written")

// Append adds an entry and returns when it is on stable storage, after Config.AppendTimeout at most. If Append returns
// an error, the action that the line records must not happen: the line is not in the log, or it is
// followed by an unanswered event.
func (l *Log) Append(e Entry) error {
	_, err := l.AppendNumbered(e)
	return err
}

// AppendNumbered is like Append, and also returns the number of the line.
func (l *Log) AppendNumbered(e Entry) (seq uint64, err error) {
	head, err := l.append(e, 0)
	return head.Seq, err
}

// AppendUnanswered adds an unanswered event for a line that Append has written: its caller gets no
// result. It returns when the event is on stable storage, after Config.AppendTimeout at most. If it returns
// an error, the event may be missing.
func (l *Log) AppendUnanswered(seq uint64) error {
	event, err := json.Marshal(Event{Time: time.Now().UTC(), Kind: KindUnanswered, Unanswered: []uint64{seq}})
	if err == nil {
		// The event is written even if nobody waits for it any more, and no other event names it.
		_, err = l.write(&pending{entry: event, offered: true, unattended: func(error) {}})
	}
	return err
}

// AppendChange is like Append, for a change that was made. If it returns ErrSlow, the log still writes
// the line, and calls unattended with the result.
func (l *Log) AppendChange(e Entry, unattended func(err error)) error {
	entry, err := json.Marshal(e)
	if err == nil {
		_, err = l.write(&pending{entry: entry, unattended: unattended})
	}
	return err
}

// append writes an Entry or an Event and returns its Head.
func (l *Log) append(line any, rotate uint64) (Head, error) {
	entry, err := json.Marshal(line)
	if err != nil {
		return Head{}, fmt.Errorf("encoding an audit line: %w", err)
	}
	return l.write(&pending{entry: entry, rotate: rotate})
}

func (l *Log) write(p *pending) (Head, error) {
	p.result = make(chan error, 1)
	timeout := time.NewTimer(l.cfg.AppendTimeout)
	defer timeout.Stop()
	if err := l.put(p, timeout.C); err != nil {
		return Head{}, err
	}
	select {
	case err := <-p.result:
		return p.head, err
	case <-timeout.C:
	}
	if p.caller.CompareAndSwap(callerWaits, callerLeft) {
		return Head{}, ErrSlow
	}
	err := <-p.result
	return p.head, err
}

// Offer adds an entry without waiting until it is written. If the entry is not written, because the
// log is busy or fails, Offer calls lost. It is for lines on which nothing depends.
func (l *Log) Offer(e Entry, lost func()) { l.offer(e, lost) }

// OfferSuppressed adds a line that counts refusals without separate lines, in the same way as
// Offer. It sets the event's Kind.
func (l *Log) OfferSuppressed(e Event, lost func()) {
	e.Kind = KindSuppressed
	l.offer(e, lost)
}

func (l *Log) offer(line any, lost func()) {
	entry, err := json.Marshal(line)
	p := &pending{entry: entry, offered: true, result: make(chan error, 1), unattended: func(err error) {
		if err != nil {
			lost()
		}
	}}
	p.caller.Store(callerLeft)
	// Lines for which callers wait have half of the queue to themselves.
	if err != nil || l.Err() != nil || len(l.queue) >= maxBatch/2 || l.put(p, nil) != nil {
		lost()
	}
}

// put queues p for the writer, and waits until there is room or giveUp comes. It does not wait if
// giveUp is nil.
func (l *Log) put(p *pending, giveUp <-chan time.Time) error {
	l.closing.RLock()
	defer l.closing.RUnlock()
	if l.closed {
		return errClosed
	}
	select {
	case l.queue <- p:
		return nil
	default:
	}
	if giveUp == nil {
		return errFull
	}
	select {
	case l.queue <- p:
		return nil
	case <-giveUp:
		return errFull
	}
}
