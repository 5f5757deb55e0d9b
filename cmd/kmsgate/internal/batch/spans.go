package batch

import (
	"cmp"
	"slices"
)

// A Span is some lines of a list.
type Span struct{ From, To int } // both included

// maxSpans limits the memory for spans. Beyond it, the lines between two near spans are included.
const maxSpans = 1000

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
	if len(merged) > maxSpans {
		i := 1 // of the span that is nearest to the one before it
		for k := range merged[1:] {
			if merged[k+1].From-merged[k].To < merged[i].From-merged[i-1].To {
				i = k + 1
			}
		}
		merged[i-1].To = merged[i].To
		merged = slices.Delete(merged, i, i+1)
	}
	*s = merged
}
