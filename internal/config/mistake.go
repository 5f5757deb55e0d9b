package config

import (
	"fmt"
	"slices"
	"strings"
)

// A Mistake is one mistake in a configuration that the operator has to correct.
type Mistake struct {
	Line  int    // in the file; 0 if the mistake is in no line
	Field string // dotted: token.pin_file, listeners[0].address; empty for the whole file
	What  string // the mistake and its correction; it continues a sentence that starts with Field
}

// String returns the mistake's line in an error.
func (m Mistake) String() string {
	var b strings.Builder
	if m.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", m.Line)
	}
	if m.Field != "" {
		b.WriteString(m.Field + ": ")
	}
	return b.String() + m.What
}

// Mistakes is the error of [Parse], [Load] and [Config.Check]: all mistakes that they found.
type Mistakes []Mistake

// Error returns a line for each mistake.
func (m Mistakes) Error() string {
	lines := make([]string, len(m))
	for i, mistake := range m {
		lines[i] = mistake.String()
	}
	return strings.Join(lines, "\n")
}

// A ledger collects mistakes.
type ledger struct {
	lines    map[string]int // by field; a field that the file does not set is not in here
	mistakes Mistakes
	known    map[string]bool // the fields of mistakes
}

func newLedger() *ledger { return &ledger{lines: map[string]int{}, known: map[string]bool{}} }

// report adds a mistake, unless it follows from an earlier one. If token is not a section, for
// example, token.module is not reported as missing.
func (l *ledger) report(field, format string, args ...any) {
	for f := field; f != ""; f = parent(f) {
		if l.known[f] {
			return
		}
	}
	l.known[field] = true
	l.mistakes = append(l.mistakes, Mistake{l.line(field), field, fmt.Sprintf(format, args...)})
}

// line returns the line of the field, or of the section that it belongs to.
func (l *ledger) line(field string) int {
	for ; field != ""; field = parent(field) {
		if line, given := l.lines[field]; given {
			return line
		}
	}
	return 0
}

// err returns the mistakes in the file's order, or nil if there are none.
func (l *ledger) err() error {
	if len(l.mistakes) == 0 {
		return nil
	}
	slices.SortStableFunc(l.mistakes, func(a, b Mistake) int { return a.Line - b.Line })
	return l.mistakes
}

// parent returns the section or list of a field: listeners[0] for listeners[0].address, and
// listeners for listeners[0].
func parent(field string) string { return field[:max(0, strings.LastIndexAny(field, ".["))] }

// fieldPath returns the full name of a field of a section.
func fieldPath(section, name string) string {
	if section == "" {
		return name
	}
	return section + "." + name
}
