package acs

import (
	"bufio"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// MaxParameters is the greatest number of parameters of a request, in its query and its form
// together. The documented request with the most is TagResources: kms.MaxList of each of ResourceId,
// Tag.Key and Tag.Value, and fewer than 20 others, including those of the signature. The rest leaves
// room for parameters that clients send and operations do not have.
const MaxParameters = 5 * kms.MaxList

// A parameter is one of a request. Its value stays encoded, as a part of the request's text, until it
// is needed: a request that is refused costs no second copy of its text.
type parameter struct {
	name    string // decoded
	encoded string // the value; its escapes are well-formed
	inForm  bool
}

// decoded returns the value.
func (p parameter) decoded() string {
	value, _ := url.QueryUnescape(p.encoded) // newParameter has checked the escapes
	return value
}

// parameters are those of the query and the form, by name, each name once.
type parameters []parameter

// split splits the query and the form, and refuses a repeated name. Clients escape differently: a
// space is + or %20, and * is escaped or not. Signatures are therefore computed over the decoded
// values, never over the received text.
func (h *Head) split(form string) (parameters, error) {
	// Old SDKs send a Content-Type even without a body.
	if form != "" && MediaType(h.header) != "application/x-www-form-urlencoded" {
		return nil, errors.New("parsing the body: the Content-Type is not application/x-www-form-urlencoded")
	}
	n := pieces(h.query) + pieces(form)
	if n > MaxParameters { // before anything is allocated for them
		return nil, fmt.Errorf("the request has more than %d parameters", MaxParameters)
	}
	all := make(parameters, 0, n)
	all, err := all.add(h.query, false)
	if err != nil {
		return nil, fmt.Errorf("parsing the query: %w", err)
	}
	if all, err = all.add(form, true); err != nil {
		return nil, fmt.Errorf("parsing the body: %w", err)
	}
	if excess := escapedTwice.size(h.query) + escapedTwice.size(form) - 2*(len(h.query)+len(form)); excess > maxExcess {
		return nil, errors.New("the request has too many special characters (percent-encode them)")
	}
	slices.SortFunc(all, func(a, b parameter) int { return strings.Compare(a.name, b.name) })
	for i := 1; i < len(all); i++ {
		switch {
		case all[i].name != all[i-1].name:
		case all[i].inForm != all[i-1].inForm:
			return nil, fmt.Errorf("the query and the body both contain %q", all[i].name)
		default:
			return nil, fmt.Errorf("%q occurs more than once", all[i].name)
		}
	}
	return all, nil
}

// pieces returns how many pieces a query or form has. Each can be a parameter.
func pieces(text string) int {
	if text == "" {
		return 0
	}
	return strings.Count(text, "&") + 1
}

// add appends the parameters in a query or form.
func (p parameters) add(text string, inForm bool) (parameters, error) {
	for piece := range strings.SplitSeq(text, "&") {
		if piece == "" {
			continue
		}
		one, err := newParameter(piece)
		if err != nil {
			return nil, err
		}
		one.inForm = inForm
		p = append(p, one)
	}
	return p, nil
}

// maxName is the maximum length of a parameter's name in bytes, as received. KMS's names have fewer
// than 50.
const maxName = 256

func newParameter(piece string) (parameter, error) {
	if strings.Contains(piece, ";") {
		return parameter{}, errors.New("a semicolon separates parameters")
	}
	encodedName, encoded, _ := strings.Cut(piece, "=")
	if len(encodedName) > maxName {
		return parameter{}, fmt.Errorf("a parameter has a name of more than %d bytes", maxName)
	}
	name, err := url.QueryUnescape(encodedName)
	if err != nil {
		return parameter{}, err
	}
	if !isName(name) {
		// The message omits the name, which can be the part of a password after an &.
		return parameter{}, errors.New("a parameter has an invalid name")
	}
	return parameter{name: name, encoded: encoded}, checkEscapes(encoded)
}

// isName reports whether a parameter's name consists of letters, digits and "._-". ACS3 signs names
// without escaping them, so with "=" or "&" in a name one signature could fit two requests.
func isName(s string) bool {
	for i := range len(s) {
		if !unreserved[s[i]] || s[i] == '~' {
			return false
		}
	}
	return s != ""
}

// checkEscapes returns an error unless two hexadecimal digits follow each percent sign.
func checkEscapes(s string) error {
	for {
		i := strings.IndexByte(s, '%')
		if i < 0 {
			return nil
		}
		if s = s[i:]; len(s) < 3 || !isHex(s[1]) || !isHex(s[2]) {
			return url.EscapeError(s[:min(3, len(s))])
		}
		s = s[3:]
	}
}

// find returns the decoded value of a parameter, and whether the request has the parameter.
func (p parameters) find(name string) (value string, ok bool) {
	i, ok := slices.BinarySearchFunc(p, name, func(one parameter, name string) int { return strings.Compare(one.name, name) })
	if !ok {
		return "", false
	}
	return p[i].decoded(), true
}

// get returns the decoded value of a parameter, or "" if the request has no such parameter.
func (p parameters) get(name string) string {
	value, _ := p.find(name)
	return value
}

// decoded returns the parameters without those to skip.
func (p parameters) decoded(skip func(name string) bool) map[string]string {
	all := make(map[string]string, len(p))
	for _, one := range p {
		if !skip(one.name) {
			all[one.name] = one.decoded()
		}
	}
	return all
}

// maxFound is the greatest number of encoded bytes of a value that Find decodes. The values that it looks for
// are shorter than 100.
const maxFound = 512

// Find returns the decoded value of the first parameter with a name in a query or form, or "" if there
// is none. It does not split the text and does not check it. Find does not find a name that is escaped in
// the text, and decodes at most the first maxFound bytes of a value.
func Find(text, name string) string {
	name += "="
	for end := 0; ; {
		i := strings.Index(text[end:], name)
		if i < 0 {
			return ""
		}
		start := end + i
		end = start + len(name)
		if start == 0 || text[start-1] == '&' {
			encoded, _, _ := strings.Cut(text[end:min(end+maxFound, len(text))], "&")
			value, _ := url.QueryUnescape(encoded) // "" if it is malformed
			return value
		}
	}
}

// unreserved holds RFC 3986's unreserved characters, which signatures do not escape.
var unreserved = func() (set [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~") {
		set[c] = true
	}
	return set
}()

// An escaping holds what a string to sign has for each byte of a value: at most maxEscape bytes.
type escaping [256]string

const maxEscape = len("%25AB")

// escapedOnce is for a value that is percent-encoded, and escapedTwice for one in a text that is
// percent-encoded as a whole.
var escapedOnce, escapedTwice = newEscaping("%"), newEscaping("%25")

func newEscaping(percent string) *escaping {
	var e escaping
	for c := range e {
		if e[c] = fmt.Sprintf("%s%02X", percent, c); unreserved[c] {
			e[c] = string(rune(c)) // an ASCII character
		}
	}
	return &e
}

// maxExcess limits, in bytes, how far the string to sign may exceed twice the length of the query and form. Clients
// escape most of what signatures escape. Without the limit, a request could make its string to sign five times
// as long as itself. The documented requests need less, whatever characters they have.
const maxExcess = 128 << 10

// size returns an upper bound on the bytes that a query or form takes in a string to sign.
func (e *escaping) size(text string) (n int) {
	for i := range len(text) {
		n += len(e[text[i]])
	}
	return n
}

// write writes the decoded value of a parameter, escaped.
func (e *escaping) write(w *bufio.Writer, p parameter) {
	for s := p.encoded; s != ""; {
		plain := 0
		for plain < len(s) && unreserved[s[plain]] {
			plain++
		}
		w.WriteString(s[:plain])
		s = e.writeEscaped(w, s[plain:])
	}
}

// writeEscaped writes the bytes at the start of an encoded value that must be escaped, as many as fit into
// w's buffer, and returns the rest of the value. A value can have 256 KB of them, and each call of w takes
// longer than the escape.
func (e *escaping) writeEscaped(w *bufio.Writer, s string) (rest string) {
	if w.Available() < maxEscape {
		_ = w.Flush() // w keeps the error
	}
	escaped := w.AvailableBuffer()
	for s != "" && len(escaped)+maxEscape <= cap(escaped) {
		c, size := s[0], 1
		switch {
		case unreserved[c]:
			_, _ = w.Write(escaped)
			return s
		case c == '%':
			c, size = unhex(s[1])<<4|unhex(s[2]), 3
		case c == '+':
			c = ' '
		}
		escaped = append(escaped, e[c]...)
		s = s[size:]
	}
	_, _ = w.Write(escaped)
	return s
}

// decodeHex decodes text into dst. It reports whether text is hexadecimal, and exactly as long as dst needs.
func decodeHex(dst []byte, text string) bool {
	if len(text) != 2*len(dst) {
		return false
	}
	for i := range dst {
		high, low := text[2*i], text[2*i+1]
		if !isHex(high) || !isHex(low) {
			return false
		}
		dst[i] = unhex(high)<<4 | unhex(low)
	}
	return true
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// unhex returns the value of a hexadecimal digit.
func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	}
	return c - 'a' + 10
}
