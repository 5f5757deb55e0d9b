package audit

import "errors"

// A beginning is the place where a log begins, if that is not line 1, and what explains it: a
// restored event as the first line, or a deleted event further on.
//
// Anyone who can write the files can append a deleted event and then remove files. Such an event
// therefore explains nothing until a checkpoint covers it. The hashes must lead from the event to
// the line that the checkpoint names. They do not lead across a torn line. The lines before an
// unwitnessed event can come from anyone, and a checkpoint that follows covers them nevertheless.
// So an event between the two that reports torn, unwitnessed or lost lines rules out the first.
// The gateway writes the deleted event, the checkpoint, and nothing of this kind in between, before
// it removes the file.
type beginning struct {
	after     Head   // the line before the log's first one; zero if nothing needs an explanation. Hash is empty if a torn line hides it
	file      string // the log's first file
	sought    Head   // the line that a deleted event must name; zero means after
	known     Head   // a line after which the log may begin without an event
	claim     uint64 // the line of an event that names it, until a checkpoint covers the event; 0 means none
	named     Head   // the line that this event names
	explained bool
}

// matches reports whether a head is the one that an event must name.
func (b *beginning) matches(head Head) bool {
	return head.Seq == b.sought.Seq && (head.Hash == b.sought.Hash || b.sought.Hash == "")
}

// lacks reports whether the log begins after line seq, so that its hash is not known.
func (b *beginning) lacks(seq uint64) bool {
	return seq < b.after.Seq || seq == b.after.Seq && b.after.Seq > 0 && b.after.Hash == ""
}

// abandon drops an event that turned out to be void.
func (b *beginning) abandon(target Head) {
	if b.claim > target.Seq {
		b.claim = 0
	}
}

// beginAt begins the log with a line other than line 1. Whether it may begin there is known only at
// the end. It does nothing for later lines.
func (r *reading) beginAt(line Line) {
	if r.result.Lines > 0 || r.After != nil || r.head.Seq > 0 || line.Seq == 1 {
		return
	}
	b := &r.beginning
	b.after, b.file = Head{line.Seq - 1, line.Prev}, r.name
	if r.torn != "" {
		b.after.Hash = ""
	}
	if b.sought.Seq == 0 {
		b.sought = b.after
	}
	b.explained = b.known.Seq > 0 && b.matches(b.known)
	r.advance(b.after)
}

// rolledBack records how far a database was behind.
func (r *reading) rolledBack(line Line) error {
	r.result.RolledBack = append(r.result.RolledBack, *line.Event.RolledBack)
	return nil
}

// restored checks and records the backup head that a line names. A log can begin after such a head
// as it can after After, because the key has signed both. The head alone proves nothing about the
// lines after it.
func (r *reading) restored(line Line) error {
	head := line.Event.Restored
	r.beginning.claim = 0
	switch {
	case r.Key != nil && !head.Check(r.Key):
		return errors.New("the signature of its backup head does not match the public key")
	case r.result.Lines == 0 && r.beginning.after.Seq > 0 && r.beginning.after == head.Head:
		r.beginning.after = Head{}
	}
	r.result.Restored = append(r.result.Restored, head.Head)
	return nil
}

// deleted records that a line may explain the log's beginning.
func (r *reading) deleted(line Line) error {
	d := line.Event.Deleted
	if d.Seq >= line.Seq {
		return errors.New("the line that it names as deleted is not an earlier one")
	}
	if b := &r.beginning; b.claim == 0 && b.sought.Seq > 0 && b.matches(d.Head) {
		b.claim, b.named = line.Seq, d.Head
	}
	return nil
}

// doubt records that the lines before this one can come from anyone, although a later checkpoint
// covers them.
func (r *reading) doubt(Line) error {
	r.beginning.claim = 0
	return nil
}

// cover records that a checkpoint covers the lines up to seq.
func (r *reading) cover(seq uint64) {
	b := &r.beginning
	if b.claim == 0 || seq < b.claim {
		return
	}
	b.claim, b.explained = 0, true
	if named := b.named; named.Seq == b.after.Seq {
		r.result.Deleted = &named
	}
}
