package batch

import (
	"cmp"
	"slices"
)

// A Span is some lines of a list.
type Span struct{ From, To int } // both included

// spans are lines of a list, in order, with as few spans as possible.
type spans []Span

// add adds the lines from a line to another, both included.
func (s *spans) add(first, last int) {
	if first > last {
		return
	}
	all := append(slices.Clone(*s), Span{first, last})
	slices.SortFunc(all, func(a, b Span) int { return cmp.Compare(a.From, b.From) })
	merged := all[:1]
	for _, next := range all[1:] {
		if before := &merged[len(merged)-1]; next.From <= before.To+1 {
			before.To = max(before.To, next.To)
		} else {
			merged = append(merged, next)
		}
	}
	*s = merged
}
