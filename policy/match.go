package policy

import (
	"strings"
	"unicode/utf8"
)

// match reports whether s matches a pattern, which must be UTF-8. In the pattern, * matches any
// number of characters and ? matches one.
func match(pattern, s string) bool {
	ok, _ := matchSteps(pattern, s)
	return ok
}

// matchSteps is like match and also counts its steps, for tests. Their bound is
// len(pattern) + len(s) * (1 + the longest piece between two stars).
//
// It backtracks only to the last *, which avoids exponential time. That is sufficient, because each
// piece after a * is matched at its first occurrence. A later one would leave less of s for the
// rest.
func matchSteps(pattern, s string) (ok bool, steps int) {
	p, i := 0, 0
	star, start := -1, 0 // of the last *, and of the text tried after it
	for ; i < len(s); steps++ {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, start = p, i
			p++
		case p < len(pattern) && pattern[p] == '?':
			p++
			i += width(s[i:])
		case p < len(pattern) && pattern[p] == s[i]:
			p++
			i++
		case star >= 0:
			// Advance by a whole character, because ? must not match a part of one.
			start += width(s[start:])
			p, i = star+1, start
		default:
			return false, steps
		}
	}
	return strings.Trim(pattern[p:], "*") == "", steps
}

// width returns the number of bytes of the first character of s, which must not be empty. An
// invalid byte counts as a character.
func width(s string) int {
	if s[0] < utf8.RuneSelf {
		return 1
	}
	_, n := utf8.DecodeRuneInString(s)
	return n
}
