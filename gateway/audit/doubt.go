package audit

import "slices"

// doubts are the intended lines for which Open has found nothing that says whether their results were
// released. The zero value has none.
type doubts struct {
	closed uint64   // all intended lines up to this number are closed
	lines  []uint64 // in ascending order
}

// sawIntents notes what a line says about intended lines. Each pass over the log must be in its order. A later
// pass may begin at an earlier line.
func (d *doubts) sawIntents(line Line) {
	switch {
	case line.Entry != nil:
		d.closeTo(line.Entry.ClosedTo)
		d.remove(line.Entry.NotReleased)
		if i, ok := slices.BinarySearch(d.lines, line.Seq); line.Entry.Intended && !ok && line.Seq > d.closed {
			d.lines = slices.Insert(d.lines, i, line.Seq)
		}
	case line.Event != nil:
		d.closeTo(line.Event.ClosedTo)
		d.remove(line.Event.Unanswered...)
		d.remove(line.Event.InDoubt...)
	}
}

// closeTo removes the lines up to a number.
func (d *doubts) closeTo(seq uint64) {
	if d.closed = max(d.closed, seq); len(d.lines) > 0 && d.lines[0] <= d.closed {
		i, found := slices.BinarySearch(d.lines, d.closed)
		if found {
			i++
		}
		d.lines = slices.Delete(d.lines, 0, i)
	}
}

func (d *doubts) remove(lines ...uint64) {
	for _, seq := range lines {
		if i, ok := slices.BinarySearch(d.lines, seq); ok {
			d.lines = slices.Delete(d.lines, i, i+1)
		}
	}
}

// dropFrom removes the lines from a number on, which are no longer in the log.
func (d *doubts) dropFrom(seq uint64) {
	i, _ := slices.BinarySearch(d.lines, seq)
	d.lines = d.lines[:i]
}

// maxInDoubt is the most lines that one indoubt event names, so that the event is far shorter than maxLine.
const maxInDoubt = 10_000

// findDoubts reads the lines after the last known ClosedTo that Open has not read.
func (w *writer) findDoubts(t *tail) error {
	read := t.first.Seq
	if expect := w.log.cfg.Expect.Seq; expect > 0 {
		read = min(read, expect) // Open has read on from there, and the checkpoint there has a ClosedTo
	}
	if t.closed == 0 || t.closed+1 >= read {
		return nil
	}
	return w.log.readFrom(t.closed+1, func(line Line, _ []byte) error {
		t.sawIntents(line)
		return nil
	})
}

// writeDoubts writes events that name the lines in doubt.
func (w *writer) writeDoubts(d doubts) error {
	for lines := range slices.Chunk(d.lines, maxInDoubt) {
		if err := w.writeEvent(Event{Kind: KindInDoubt, InDoubt: lines}); err != nil {
			return err
		}
	}
	return nil
}

// inDoubt records the lines that a line names.
func (r *reading) inDoubt(line Line) error {
	r.result.InDoubt = append(r.result.InDoubt, line.Event.InDoubt...)
	return nil
}
