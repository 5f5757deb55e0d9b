package audit

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// pending is a line on its way to the writer.
type pending struct {
	entry   *[]byte // JSON; nil if there is no line. Once queued, it belongs to the writer, which recycles it
	rotate  uint64  // end the file with this first line, unless it has ended; 0 for none
	head    Head    // the written line; set before result is sent
	result  chan error
	awaited bool // by the caller, who has err from result
	err     error
	caller  atomic.Int32 // callerWaits at first

	offered bool // no request depends on the line

	// An Intent has queued the line.
	intended bool
	number   uint64 // of the line; 0 until it has one
	withheld bool   // an unanswered event must name the line

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
	entry, err := encodeEntry(&e)
	if err != nil {
		return 0, err
	}
	head, err := l.write(&pending{entry: entry})
	return head.Seq, err
}

// AppendChange is like Append, for a change that was made. If it returns ErrSlow, the log still writes
// the line, and calls unattended with the result.
func (l *Log) AppendChange(e Entry, unattended func(err error)) error {
	entry, err := encodeEntry(&e)
	if err == nil {
		_, err = l.write(&pending{entry: entry, unattended: unattended})
	}
	return err
}

// append writes an event and returns its Head.
func (l *Log) append(e Event, rotate uint64) (Head, error) {
	event, err := encodeEvent(e)
	if err != nil {
		return Head{}, fmt.Errorf("encoding an audit line: %w", err)
	}
	return l.write(&pending{entry: &event, rotate: rotate})
}

func (l *Log) write(p *pending) (Head, error) {
	deadline := time.Now().Add(l.cfg.AppendTimeout)
	if err := p.send(l, deadline); err != nil {
		return Head{}, err
	}
	return p.await(deadline)
}

// send queues p for the writer of l, and waits until the deadline if there is no room.
func (p *pending) send(l *Log, deadline time.Time) error {
	p.result = make(chan error, 1)
	err := l.put(p, nil)
	if !errors.Is(err, errFull) {
		return err
	}
	timeout := time.NewTimer(time.Until(deadline))
	defer timeout.Stop()
	return l.put(p, timeout.C)
}

// await waits for the result until the deadline. Later calls return the same.
func (p *pending) await(deadline time.Time) (Head, error) {
	if p.caller.Load() == callerLeft {
		return Head{}, ErrSlow
	}
	if !p.awaited {
		select {
		case p.err = <-p.result:
		default:
			timeout := time.NewTimer(time.Until(deadline))
			defer timeout.Stop()
			select {
			case p.err = <-p.result:
			case <-timeout.C:
				if p.caller.CompareAndSwap(callerWaits, callerLeft) {
					return Head{}, ErrSlow
				}
				p.err = <-p.result
			}
		}
		p.awaited = true
	}
	return p.head, p.err
}

// Offer adds an entry without waiting until it is written. If the entry is not written, because the
// log is busy or fails, Offer calls lost. It is for lines on which nothing depends.
func (l *Log) Offer(e Entry, lost func()) {
	entry, err := encodeEntry(&e)
	offer(l, entry, err, lost)
}

// OfferSuppressed adds a line that counts refusals without separate lines, in the same way as
// Offer. It sets the event's Kind.
func (l *Log) OfferSuppressed(e Event, lost func()) {
	e.Kind = KindSuppressed
	event, err := encodeEvent(e)
	offer(l, &event, err, lost)
}

// offer offers an encoded line. err is the error of its encoding.
func offer(l *Log, entry *[]byte, err error, lost func()) {
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
