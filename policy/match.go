package policy

import (
	"strings"
	"unicode/utf8"
)

// match reports whether s matches a pattern, which is UTF-8, in which * stands
// for any number of characters and ? for one.
func match(pattern, s string) bool {
	ok, _ := matchSteps(pattern, s)
	return ok
}

// matchSteps is match, and counts its steps, which tests hold to their bound:
// len(pattern) + len(s) * (1 + the longest piece between two stars).
//
// It goes back to the last * only, which is enough, and keeps it from taking
// exponential time: what follows a * is taken where it comes first, and further
// on it would leave less of s for the rest.
func matchSteps(pattern, s string) (ok bool, steps int) {
	p, i := 0, 0
	star, from := -1, 0
	for ; i < len(s); steps++ {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, i
			p++
		case p < len(pattern) && pattern[p] == '?':
			p++
			i += width(s[i:])
		case p < len(pattern) && pattern[p] == s[i]:
			p++
			i++
		case star >= 0:
			// By a whole character: a ? must not match a part of one.
			from += width(s[from:])
			p, i = star+1, from
		default:
			return false, steps
		}
	}
	return strings.Trim(pattern[p:], "*") == "", steps
}

// width is the bytes of the first character of s, which is not empty; a byte
// that is no UTF-8 counts as one.
func width(s string) int {
	if s[0] < utf8.RuneSelf {
		return 1
	}
	_, n := utf8.DecodeRuneInString(s)
	return n
}
