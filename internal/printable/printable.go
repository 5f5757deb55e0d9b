// Package printable makes untrusted text safe to print: the text cannot control a terminal,
// hide other text, pass for several values, or act on a shell.
package printable

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
)

// Text escapes characters that are not printable as Go escapes them: control characters, line
// breaks and marks that change the writing direction. It escapes the backslash too, so that
// no two values look the same.
func Text(s string) string {
	printable := func(r rune) bool { return strconv.IsPrint(r) && r != '\\' && r != '\uFFFD' }
	if !strings.ContainsFunc(s, func(r rune) bool { return !printable(r) }) {
		return s
	}
	quoted := strconv.Quote(s)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

// Lines applies [Text] to each line of text, such as PEM. The result ends with a line break.
func Lines(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(Text(strings.TrimSuffix(line, "\n")) + "\n")
	}
	return b.String()
}

// JSON escapes characters in JSON that are not printable. It keeps line breaks: they occur
// only between values, and all other such characters only in strings. The result decodes to
// the same value.
func JSON(text []byte) []byte {
	if !slices.ContainsFunc(text, func(b byte) bool { return b != '\n' && (b < ' ' || b > '~') }) {
		return text // ASCII, as almost always
	}
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

// plain are the characters that need no quotes in a POSIX shell.
const plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-/:[]@%+,"

// quote is a single quote within single quotes.
const quote = `'\''`

// Shell quotes a value for a POSIX shell, unless the value is a plain word.
func Shell(s string) string {
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", quote) + "'"
}

// CutShell splits a text after the value that Shell has quoted at its beginning. ok is false if there
// is none.
func CutShell(text string) (value, rest string, ok bool) {
	if !strings.HasPrefix(text, "'") {
		rest = strings.TrimLeft(text, plain)
		value = text[:len(text)-len(rest)]
		return value, rest, value != ""
	}
	for rest = text[1:]; ; {
		end := strings.IndexByte(rest, '\'')
		if end < 0 {
			return "", text, false
		}
		value += rest[:end]
		if after, more := strings.CutPrefix(rest[end:], quote); more {
			value, rest = value+"'", after
			continue
		}
		return value, rest[end+1:], true
	}
}
