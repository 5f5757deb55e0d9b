package audit

import "fmt"

// A RollbackError means that the records lack changes that the log has, or that SeenChange counts.
type RollbackError struct {
	Rollback
	Uncovered uint64 // the first line that shows it, if only lines show it that no checkpoint covers; otherwise 0
}

func (e *RollbackError) Error() string {
	text := fmt.Sprintf("the database is an older one: its last change is number %d, but the audit log or the token has "+
		"seen number %d", e.Found, e.Seen)
	if e.Uncovered > 0 {
		text += fmt.Sprintf("; only the lines from number %d on show that, and no checkpoint covers them: make sure that "+
			"nobody has added them", e.Uncovered)
	}
	return text
}

// changes are what is known of the numbers of changes.
type changes struct {
	known       bool      // the number of the records' last change is known
	found, seen uint64    // that number, and the one seen elsewhere
	key         PublicKey // checks checkpoints
	change      uint64    // the greatest number of a change
	implausible error     // the first line with a number that no gateway reaches; nil if there is none

	later   uint64            // the first line with a greater number than found; 0 if there is none
	hashes  map[uint64]string // of that line and those after it
	covered uint64            // the last of these lines that a checkpoint covers
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
			c.implausible = lossf("line %d has the number %d of a change, but the database's last change is number %d: "+
				"no gateway wrote this line", line.Seq, n, c.found)
		}
		return
	}
	c.change = max(c.change, n)
	if n > c.found && (c.later == 0 || line.Seq < c.later) {
		c.later, c.hashes = line.Seq, make(map[uint64]string)
	}
	if c.later == 0 {
		return
	}
	c.hashes[line.Seq] = hashOf(text)
	if !line.hasKind(KindCheckpoint) {
		return
	}
	if p := line.Event.Checkpoint; p != nil && c.hashes[p.Seq] == p.Hash && c.key != nil && p.Check(c.key) {
		c.covered = max(c.covered, p.Seq)
	}
}

// uncovered returns the first line with a greater number than that of the records, if neither a line that a
// checkpoint covers nor the number seen elsewhere shows that they are older. It returns 0 otherwise, or without a key.
func (c *changes) uncovered() uint64 {
	if c.key == nil || c.seen > c.found || c.covered >= c.later {
		return 0
	}
	return c.later
}
