package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/kmsgate/kmsgate/internal/durable"
)

// A file is what the writer needs of an *os.File.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Stat() (fs.FileInfo, error)
	Truncate(size int64) error
	Sync() error
}

// A writer owns the file. It is used by one goroutine.
type writer struct {
	log       *Log
	file      file // nil: there is none yet, or it was rotated
	size      int64
	first     uint64 // Seq of the file's first line
	began     time.Time
	notBefore time.Time // when it may be tried again after a flush failed
	head      Head      // of what is flushed
	failing   error     // why nothing could be written at the last attempt
	abandoned string    // why the previous file was given up, until a line says so
	rotating  bool      // the file has to be put aside first
	buffer    bytes.Buffer
	waiting   []*pending
}

// run takes what has queued, writes it, flushes once and releases the waiters.
func (w *writer) run() {
	defer close(w.log.done)
	retry := time.NewTicker(retryEvery)
	defer retry.Stop()
	for {
		select {
		case first, ok := <-w.log.queue:
			if !ok {
				return
			}
			w.gather(first)
		case <-retry.C:
			if w.failing == nil {
				continue
			}
			w.waiting = w.waiting[:0] // only to find out whether it can be written again
		}
		err := w.writeBatch()
		for _, p := range w.waiting {
			p.result <- err
			if err != nil && p.lost != nil {
				p.lost()
			}
		}
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

// writeBatch writes the lines that wait, behind an event if there is something to
// report.
func (w *writer) writeBatch() error {
	err := w.prepare()
	if err == nil {
		err = w.writeLines()
	}
	w.report(err)
	if err != nil {
		return fmt.Errorf("the audit log cannot be written: %w", err)
	}
	for _, p := range w.waiting {
		w.rotating = w.rotating || p.rotate
	}
	if w.size >= w.log.cfg.RotateSize && !w.rotating {
		select {
		case w.log.full <- struct{}{}:
		default: // it was said already
		}
	}
	return nil
}

// report publishes the outcome of a batch, and logs when that changes.
func (w *writer) report(err error) {
	switch {
	case err != nil && w.failing == nil:
		attrs := []any{"path", w.log.cfg.Path, "reason", err}
		if loss := new(LossError); errors.As(err, &loss) && w.log.cfg.AcceptLossHint != "" {
			attrs = append(attrs, "hint", w.log.cfg.AcceptLossHint)
		}
		w.log.cfg.Logger.Error("the audit log cannot be written: nothing is signed or changed until it can", attrs...)
	case err == nil && w.failing != nil:
		w.log.cfg.Logger.Info("the audit log is written again", "path", w.log.cfg.Path)
	}
	w.failing = err
	w.log.state.Store(&state{w.head, err})
}

func (w *writer) writeLines() error {
	head := w.head
	w.buffer.Reset()
	add := func(entry []byte) {
		line := head.format(entry)
		head = Head{head.Seq + 1, hashOf(line)}
		w.buffer.Write(line)
		w.buffer.WriteByte('\n')
	}
	if note, err := w.note(); err != nil {
		return err
	} else if note != nil {
		add(note)
	}
	for _, p := range w.waiting {
		if p.entry != nil {
			add(p.entry)
		}
		p.head = head
	}
	if w.buffer.Len() == 0 {
		return nil
	}
	if err := w.append(w.buffer.Bytes()); err != nil {
		return err
	}
	w.head, w.abandoned = head, ""
	return nil
}

// note returns the event that says why the log was silent, or that a file was
// given up; nil if there is nothing to say.
func (w *writer) note() ([]byte, error) {
	e := Event{Time: time.Now().UTC(), Abandoned: w.abandoned}
	if w.failing != nil {
		e.Resumed = w.failing.Error()
	}
	if e.Kind = e.kindOfFields(); e.Kind == "" {
		return nil, nil
	}
	return json.Marshal(e)
}

// append writes text behind what is flushed, and flushes it.
func (w *writer) append(text []byte) error {
	if _, err := w.file.WriteAt(text, w.size); err != nil {
		// The disk may be full. Nothing of it was flushed and nobody was answered on
		// the strength of it: take it back, and let the next batch try.
		if truncErr := w.file.Truncate(w.size); truncErr != nil {
			return w.abandon(errors.Join(err, truncErr))
		}
		return err
	}
	if err := w.file.Sync(); err != nil {
		// After a failed flush the kernel may have dropped the pages and marked them
		// clean: nobody knows what is in the file.
		return w.abandon(fmt.Errorf("flushing it failed: %w", err))
	}
	w.size += int64(len(text))
	return nil
}

// abandon gives the file up. The next attempt begins another.
func (w *writer) abandon(err error) error {
	w.abandoned, w.rotating = err.Error(), true
	w.notBefore = time.Now().Add(retryEvery) // each attempt makes a file
	return err
}

// prepare makes sure that there is a file to write to, and that it is the one at
// the log's path, as it was left.
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
		if err := w.putAside(); err != nil {
			return fmt.Errorf("rotating it: %w", err)
		}
	}
	w.rotating = false
	if w.file == nil {
		return w.begin()
	}
	return nil
}

// checkFile returns an error if somebody else removed, replaced or changed the
// file. The writer calls it before every flush, which costs two system calls. Of a
// file that is being given up it checks the place only.
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
		return fmt.Errorf("the file has %d bytes and should have %d: something else has written to it (restart to have it checked)", open.Size(), w.size)
	}
	return nil
}

// putAside renames the file to PATH.N, after its first line.
func (w *writer) putAside() error {
	name := rotatedName(w.log.cfg.Path, w.first)
	if _, err := os.Lstat(name); err == nil {
		name += "." + time.Now().UTC().Format("20060102T150405.000000000")
	}
	move := func() error { return os.Rename(w.log.cfg.Path, name) }
	if w.size == 0 { // given up before anything in it was flushed
		move = func() error { return os.Remove(w.log.cfg.Path) }
	}
	if err := move(); err != nil {
		return err
	}
	select {
	case <-w.log.full: // it may have been said again
	default:
	}
	if err := w.close(); err != nil && w.abandoned == "" {
		w.log.cfg.Logger.Warn("closing a rotated file of the audit log", "path", name, "error", err)
	}
	return nil
}

// begin makes the next file.
func (w *writer) begin() error {
	f, err := w.log.cfg.open(w.log.cfg.Path, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	if err := durable.SyncDir(filepath.Dir(w.log.cfg.Path)); err != nil {
		return errors.Join(err, f.Close(), os.Remove(w.log.cfg.Path))
	}
	w.file, w.size, w.first, w.began = f, 0, w.head.Seq+1, time.Now()
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

func rotatedName(path string, first uint64) string { return fmt.Sprintf("%s.%016d", path, first) }
