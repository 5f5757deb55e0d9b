package audit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/kmsgate/kmsgate/internal/durable"
)

// A file is the part of an *os.File that the writer needs.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Stat() (fs.FileInfo, error)
	Truncate(size int64) error
	Sync() error
}

// A writer owns the current file. Only one goroutine uses it.
type writer struct {
	log        *Log
	file       file // nil if there is none yet or it was rotated
	size       int64
	first      uint64 // Seq of the file's first line
	fileStart  time.Time
	notBefore  time.Time // the earliest next attempt after a failed flush
	head       Head      // the last flushed line
	lastTime   time.Time // of the last line when the log was opened; zero if it had none
	failing    error     // why the last attempt to write failed
	unanswered []uint64  // lines whose callers got no result; no event names them yet
	abandoned  string    // why the previous file was abandoned; cleared once a line records it
	leftover   bool      // begin has left an empty file at the log's path
	rotating   bool      // the file must be rotated before the next line
	text       []byte    // of a batch
	waiting    []*pending
}

// run writes all queued lines, flushes once and releases the callers that wait, until queue is
// closed.
func (w *writer) run() {
	defer close(w.log.done)
	retry := time.NewTicker(retryInterval)
	defer retry.Stop()
	for {
		select {
		case first, ok := <-w.log.queue:
			if !ok {
				return
			}
			w.gather(first)
		case <-retry.C:
			if w.failing == nil && !w.log.intents.hasUnnamed() {
				continue
			}
			w.waiting = w.waiting[:0] // an empty batch only tests whether the log can be written again
		}
		w.serve()
	}
}

// serve writes the waiting lines and answers their callers. If some of them have left by then, it
// writes a line that says so.
func (w *writer) serve() {
	began, late := time.Now(), false
	w.log.writing.Store(&began)
	defer func() {
		w.log.writing.Store(nil)
		if late { // only now can a checkpoint be written: until then, Err tells of the wait
			w.signalResumed()
		}
	}()
	err := w.writeBatch()
	late = err == nil && time.Since(began) > w.log.cfg.AppendTimeout
	for _, p := range w.waiting {
		w.answer(p, err)
	}
	if len(w.unanswered) > 0 {
		w.waiting = w.waiting[:0]
		_ = w.writeBatch() // if it fails, the next batch has the line
	}
}

// answer sends the result to the line's caller, or calls unattended if the caller has left. The
// line's text is not used again.
func (w *writer) answer(p *pending, err error) {
	if p.entry != nil {
		recycle(p.entry)
		p.entry = nil
	}
	p.result <- err
	if p.caller.CompareAndSwap(callerWaits, callerAnswered) {
		return
	}
	switch {
	case !p.offered && p.head.Seq > 0 && err == nil:
		w.unanswered = append(w.unanswered, p.head.Seq)
	case p.intended:
		w.log.intents.close(p)
	}
	if p.unattended != nil {
		p.unattended(err)
	}
}

func (w *writer) gather(first *pending) {
	w.waiting = append(w.waiting[:0], first)
	for len(w.waiting) < maxBatch {
		select {
		case p, ok := <-w.log.queue:
			if !ok {
				return
			}
			w.waiting = append(w.waiting, p)
		default:
			return
		}
	}
}

// writeBatch writes the waiting lines, after an event if there is one to report.
func (w *writer) writeBatch() error {
	err := w.prepare()
	if err == nil {
		err = w.writeLines()
	}
	w.report(err)
	if err != nil {
		return fmt.Errorf("writing the audit log: %w", err)
	}
	for _, p := range w.waiting {
		w.rotating = w.rotating || p.rotate != 0 && p.rotate == w.first // a request can be about an earlier file
	}
	if w.size >= w.log.cfg.RotateSize && !w.rotating {
		select {
		case w.log.full <- w.first:
		default: // the signal is already pending
		}
	}
	return nil
}

// report publishes the result of a batch, and logs it if it differs from the previous one. It signals
// only after it has published: while Err returns an error, no checkpoint is written.
func (w *writer) report(err error) {
	failed := w.failing
	w.failing = err
	w.log.state.Store(&state{w.head, w.first, err})
	switch {
	case err != nil && failed == nil:
		attrs := []any{"path", w.log.cfg.Path, "err", err}
		if loss := new(LossError); errors.As(err, &loss) && w.log.cfg.AcceptLossHint != "" {
			attrs = append(attrs, "hint", w.log.cfg.AcceptLossHint)
		}
		w.log.cfg.Logger.Error("the audit log cannot be written; the gateway signs and changes nothing until it can",
			attrs...)
	case err == nil && failed != nil:
		w.log.cfg.Logger.Info("the audit log can be written again", "path", w.log.cfg.Path)
		w.signalResumed()
	}
}

func (w *writer) writeLines() error {
	head, text := w.head, w.text[:0]
	add := func(entry []byte) {
		start := len(text)
		text = head.appendNext(text, entry)
		head = Head{head.Seq + 1, hashOf(text[start:])}
		text = append(text, '\n')
	}
	if event, err := w.pendingEvent(); err != nil {
		return err
	} else if event != nil {
		add(event)
	}
	w.unanswered = append(w.unanswered, w.log.intents.takeUnnamed()...)
	if len(w.unanswered) > 0 {
		event, err := encodeEvent(Event{Time: time.Now().UTC(), Kind: KindUnanswered, Unanswered: w.unanswered})
		if err != nil {
			return err
		}
		add(event)
	}
	intended := uint64(0)
	for _, p := range w.waiting {
		if p.entry == nil || p.unattended == nil && p.caller.Load() == callerLeft {
			continue
		}
		add(*p.entry)
		if p.head = head; p.intended {
			w.log.intents.setNumber(p, head.Seq)
			intended = head.Seq
		}
	}
	w.text = text
	if len(text) == 0 {
		return nil
	}
	if err := w.append(text); err != nil {
		return err
	}
	w.log.intents.flushed(intended, w.unanswered)
	w.head, w.abandoned, w.unanswered = head, "", nil
	return nil
}

// pendingEvent returns the event that records why the log could not be written or why it abandoned
// a file. It returns nil if there is nothing to record.
func (w *writer) pendingEvent() ([]byte, error) {
	if w.failing == nil && w.abandoned == "" {
		return nil, nil
	}
	e := Event{Time: time.Now().UTC(), Abandoned: w.abandoned}
	if w.failing != nil {
		e.Resumed = w.failing.Error()
	}
	e.Kind = e.kindOfFields()
	return encodeEvent(e)
}

// append writes text after the flushed lines and flushes it.
func (w *writer) append(text []byte) error {
	if _, err := w.file.WriteAt(text, w.size); err != nil {
		// The disk may be full. No part of the text was flushed and no request was answered because
		// of it, so it can be removed. The next batch tries again.
		if truncErr := w.file.Truncate(w.size); truncErr != nil {
			return w.abandon(errors.Join(err, truncErr))
		}
		return err
	}
	if err := w.file.Sync(); err != nil {
		// After a failed flush the kernel may have dropped the pages and marked them clean. The
		// file's content is unknown.
		return w.abandon(fmt.Errorf("flushing the file: %w", err))
	}
	w.size += int64(len(text))
	w.log.gauge.written.Add(uint64(len(text)))
	return nil
}

// abandon marks the file as abandoned, so that the next attempt begins another one.
func (w *writer) abandon(err error) error {
	w.abandoned, w.rotating = err.Error(), true
	w.notBefore = time.Now().Add(retryInterval) // each attempt creates a file
	return err
}

// prepare ensures that the writer has a file, and that the file is the one at the log's path and
// unchanged.
func (w *writer) prepare() error {
	if w.abandoned != "" && time.Now().Before(w.notBefore) {
		return w.failing
	}
	if w.file != nil {
		if err := w.checkFile(); err != nil {
			return err
		}
	}
	if w.rotating && w.file != nil && (w.size > 0 || w.abandoned != "") {
		if err := w.rotate(); err != nil {
			return fmt.Errorf("rotating the file: %w", err)
		}
	}
	w.rotating = false
	if w.file == nil {
		return w.begin()
	}
	return nil
}

// checkFile returns an error if another process removed, replaced or changed the file. The writer
// calls it before every flush, at the cost of two system calls. It does not check the content of an
// abandoned file.
func (w *writer) checkFile() error {
	open, err := w.file.Stat()
	if err != nil {
		return err
	}
	current, err := os.Stat(w.log.cfg.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return lossf("the file was removed")
	}
	if err != nil {
		return err
	}
	if !os.SameFile(open, current) {
		return lossf("the file was replaced by another")
	}
	if w.abandoned == "" && open.Size() != w.size {
		return fmt.Errorf("the file has %d bytes instead of %d: another process wrote to it "+
			"(restart kmsgate to check it)", open.Size(), w.size)
	}
	return nil
}

// rotate renames the file to PATH.N, where N is the number of its first line.
func (w *writer) rotate() error {
	name := newRotatedName(w.log.cfg.Path, w.first)
	move := func() error { return os.Rename(w.log.cfg.Path, name) }
	if w.size == 0 { // it was abandoned before any line in it was flushed
		move = func() error { return os.Remove(w.log.cfg.Path) }
	}
	if err := move(); err != nil {
		return err
	}
	select {
	case <-w.log.full: // the signal may be pending for the old file
	default:
	}
	select {
	case w.log.rotated <- struct{}{}:
	default: // the signal is already pending
	}
	if err := w.close(); err != nil && w.abandoned == "" {
		w.log.cfg.Logger.Warn("closing a rotated file of the audit log failed", "path", name, "err", err)
	}
	return nil
}

// signalResumed asks for a checkpoint of the lines that have waited for one.
func (w *writer) signalResumed() {
	select {
	case w.log.resumed <- struct{}{}:
	default: // the signal is already pending
	}
}

// begin creates the next file.
func (w *writer) begin() error {
	if w.leftover {
		if err := os.Remove(w.log.cfg.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		w.leftover = false
	}
	f, err := w.log.cfg.open(w.log.cfg.Path, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	if err := durable.SyncDir(filepath.Dir(w.log.cfg.Path)); err != nil {
		removeErr := os.Remove(w.log.cfg.Path)
		w.leftover = removeErr != nil
		return errors.Join(err, f.Close(), removeErr)
	}
	w.file, w.size, w.first, w.fileStart = f, 0, w.head.Seq+1, time.Now()
	return nil
}

func (w *writer) close() error {
	if w.file == nil {
		return nil
	}
	err := w.file.Close()
	w.file = nil
	return err
}
