// Package printable writes text that others chose so that it cannot act on a
// terminal, hide other text or look like more than one value.
package printable

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
)

// Text escapes what cannot be printed as Go escapes it: control characters, line
// breaks and marks that turn the direction of writing included. It escapes the
// backslash too, so that no two values look the same.
func Text(s string) string {
	printable := func(r rune) bool { return strconv.IsPrint(r) && r != '\\' && r != '\uFFFD' }
	if !strings.ContainsFunc(s, func(r rune) bool { return !printable(r) }) {
		return s
	}
	quoted := strconv.Quote(s)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

// JSON escapes in JSON what cannot be printed, except line breaks: those can occur
// only between values, and everything else that cannot be printed only in strings.
// What the JSON says stays the same.
func JSON(text []byte) []byte {
	var b []byte
	for _, r := range string(text) {
		switch {
		case r == '\n' || strconv.IsPrint(r):
			b = append(b, string(r)...)
		case r > 0xFFFF:
			high, low := utf16.EncodeRune(r)
			b = fmt.Appendf(b, `\u%04x\u%04x`, high, low)
		default:
			b = fmt.Appendf(b, `\u%04x`, r)
		}
	}
	return b
}
