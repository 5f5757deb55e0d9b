package policy

import (
	"slices"
	"strings"
)

// UnmatchedActions returns those actions of the policy, in lower case, that match none of
// the operations. operations are written as in a [Request]: "kms:" and a name. RAM accepts
// such actions, and so does [Parse]: the statement takes no effect for them.
func (p *Policy) UnmatchedActions(operations []string) (unmatched []string) {
	for _, s := range p.statements {
		for _, pattern := range s.actions {
			matches := func(operation string) bool { return match(pattern, strings.ToLower(operation)) }
			if !slices.ContainsFunc(operations, matches) && !slices.Contains(unmatched, pattern) {
				unmatched = append(unmatched, pattern)
			}
		}
	}
	return unmatched
}
