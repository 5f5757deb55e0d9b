package audit

import "fmt"

// A RollbackError means that the records lack changes that the log has, or that SeenChange counts.
type RollbackError struct {
	Rollback

	// Uncovered is the first line that shows the rollback, if no checkpoint covers any such line and the token does
	// not show it; otherwise 0.
	Uncovered uint64
}

func (e *RollbackError) Error() string {
	text := fmt.Sprintf("the database is an older one: its last change is number %d, but the audit log or the token has "+
		"seen number %d", e.Found, e.Seen)
	if e.Uncovered > 0 {
		text += fmt.Sprintf("; this shows only in the audit log from line %d on, and no checkpoint covers them; "+
			"check that nobody added these lines", e.Uncovered)
	}
	return text
}

// changes tracks the change numbers that Open finds in the log.
type changes struct {
	known       bool      // the number of the records' last change is known
	found, seen uint64    // that number, and the one seen elsewhere
	key         PublicKey // checks checkpoints
	change      uint64    // the greatest number of a change
	implausible error     // the first line with a number that no gateway reaches; nil if there is none

	later   uint64            // the first line with a greater number than found; 0 if there is none
	hashes  map[uint64]string // of that line and those after it, until a checkpoint covers one
	covered uint64            // that one; 0 if there is none
}

// maxAhead is how far the number of a change in the log can be ahead of that of the records. A thousand changes a
// second reach it in 35 years. Anyone who can write the log's files can make the numbers jump that far.
const maxAhead = 1 << 40

// saw notes the number of a change.
func (c *changes) saw(line Line, text []byte) {
	n := uint64(0)
	switch {
	case !c.known:
		return
	case line.Entry != nil:
		n = line.Entry.Change
	case line.Event != nil:
		n = line.Event.Changes
	}
	if expected := max(c.found, c.seen); n > expected && n-expected > maxAhead {
		if c.implausible == nil {
			c.implausible = lossf("line %d has change number %d, but the last known change is number %d: "+
				"no gateway reaches that number", line.Seq, n, expected)
		}
		return
	}
	c.change = max(c.change, n)
	if n > c.found && (c.later == 0 || line.Seq < c.later) {
		c.later, c.hashes, c.covered = line.Seq, make(map[uint64]string), 0
	}
	if c.later == 0 || c.covered > 0 {
		return
	}
	c.hashes[line.Seq] = hashOf(text)
	if !line.hasKind(KindCheckpoint) {
		return
	}
	if p := line.Event.Checkpoint; p != nil && c.hashes[p.Seq] == p.Hash && c.key != nil && p.Check(c.key) {
		c.covered, c.hashes = p.Seq, nil
	}
}

// uncovered returns the first line with a later change than the records. It returns 0 if a checkpoint covers such a
// line, if the number seen elsewhere also shows the rollback, or if there is no key.
func (c *changes) uncovered() uint64 {
	if c.key == nil || c.seen > c.found || c.covered > 0 {
		return 0
	}
	return c.later
}
