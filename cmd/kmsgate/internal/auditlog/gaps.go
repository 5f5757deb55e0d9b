package auditlog

import (
	"errors"
	"fmt"
	"strings"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

// maxGaps is the maximum number of gaps that an error names.
const maxGaps = 10

// gaps finds missing lines by the numbers of the lines that it sees. It checks no hash.
type gaps struct {
	whole bool // the lines are those of the whole log, so that none may be missing before the first one

	file      string     // the current file
	inFile    bool       // a line of it was seen
	last      uint64     // the number of the last line; 0 before the first one
	first     audit.Line // the first line
	firstFile string     // its file
	explained bool       // no line is missing before the first one
	found     []string
	more      int // the number of gaps that found lacks
}

// next begins the next file.
func (g *gaps) next(file string) { g.file, g.inFile = file, false }

// see records the next line of the current file.
func (g *gaps) see(line audit.Line) {
	switch {
	case g.last == 0:
		g.first, g.firstFile = line, g.file
		g.explained = line.Seq == 1 || line.Event != nil && line.Event.Restored != nil &&
			line.Event.Restored.Seq == line.Seq-1
	case line.Seq <= g.last+1: // a number that is too low is that of a void line, or of another log
	case g.inFile:
		g.add("%s or damaged in %q", missing(g.last+1, line.Seq-1), g.file)
	default:
		g.add("%s: %q begins with line %d", missing(g.last+1, line.Seq-1), g.file, line.Seq)
	}
	if line.Event != nil && line.Event.Deleted != nil && g.precedes(line.Event.Deleted.Head) {
		g.explained = true
	}
	g.last, g.inFile = line.Seq, true
}

// precedes reports whether a head is that of the line before the first one.
func (g *gaps) precedes(head audit.Head) bool {
	recovered := g.first.Event != nil && g.first.Event.Recovered // its Prev is the hash of a torn line
	return head.Seq+1 == g.first.Seq && (head.Hash == g.first.Prev || recovered)
}

// position returns the position in the current file, for messages.
func (g *gaps) position() string {
	if !g.inFile {
		return ""
	}
	return fmt.Sprintf(" after line %d", g.last)
}

func (g *gaps) add(format string, args ...any) {
	if len(g.found) == maxGaps {
		g.more++
		return
	}
	g.found = append(g.found, fmt.Sprintf(format, args...))
}

// missing says that the lines from first to last are missing.
func missing(first, last uint64) string {
	if first == last {
		return fmt.Sprintf("line %d is missing", first)
	}
	return fmt.Sprintf("lines %d to %d are missing", first, last)
}

// err returns an error that names the missing lines, or nil if none is missing.
func (g *gaps) err() error {
	found := g.found
	if g.whole && g.last > 0 && !g.explained {
		beginning := fmt.Sprintf("%s, and no line says that retention deleted them: %q begins with line %d",
			missing(1, g.first.Seq-1), g.firstFile, g.first.Seq)
		found = append([]string{beginning}, found...)
	}
	if len(found) == 0 {
		return nil
	}
	if g.more > 0 {
		found = append(found, fmt.Sprintf("and %d more gaps", g.more))
	}
	return errors.New("the audit log has gaps: " + strings.Join(found, "; "))
}
