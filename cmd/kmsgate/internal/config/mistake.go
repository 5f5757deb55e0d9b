package config

import (
	"fmt"
	"slices"
	"strings"
)

// A Mistake is one thing that the operator has to change.
type Mistake struct {
	Line  int    // in the file; 0 if it is in no line
	Field string // dotted: token.pin_file, listeners[0].address; empty for the file as a whole
	What  string // is wrong, and what to do
}

// String is the mistake's line in an error.
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

// Mistakes is the error of [Parse], [Load] and [Config.Check]: all mistakes that
// were found.
type Mistakes []Mistake

// Error has a line for each mistake.
func (m Mistakes) Error() string {
	lines := make([]string, len(m))
	for i, mistake := range m {
		lines[i] = mistake.String()
	}
	return strings.Join(lines, "\n")
}

// A ledger collects mistakes.
type ledger struct {
	lines    map[string]int // where a field is given; a field that isn't in here was not given
	mistakes Mistakes
	known    map[string]bool // the fields of mistakes
}

func newLedger() *ledger { return &ledger{lines: map[string]int{}, known: map[string]bool{}} }

// wrong enters a mistake. What follows from one that was entered before is left
// out: nobody wants to be told that token.module is missing if token is no
// section.
func (l *ledger) wrong(field, format string, args ...any) {
	for f := field; f != ""; f = parent(f) {
		if l.known[f] {
			return
		}
	}
	l.known[field] = true
	l.mistakes = append(l.mistakes, Mistake{l.line(field), field, fmt.Sprintf(format, args...)})
}

// line is where the field is given, or what it would be in.
func (l *ledger) line(field string) int {
	for ; field != ""; field = parent(field) {
		if line, given := l.lines[field]; given {
			return line
		}
	}
	return 0
}

// err gives the mistakes in the file's order, nil if there are none.
func (l *ledger) err() error {
	if len(l.mistakes) == 0 {
		return nil
	}
	slices.SortStableFunc(l.mistakes, func(a, b Mistake) int { return a.Line - b.Line })
	return l.mistakes
}

// parent is what a field is in: listeners[0] for listeners[0].address, listeners
// for that.
func parent(field string) string { return field[:max(0, strings.LastIndexAny(field, ".["))] }

// within names a field of a section.
func within(section, name string) string {
	if section == "" {
		return name
	}
	return section + "." + name
}
