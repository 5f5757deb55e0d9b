package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// A reader reads a JSON document token by token and accepts only the shape that its caller asks
// for. Decoding into structs with encoding/json would be too lenient: it takes the last of two
// members with the same name, member names in another case, and null for any value.
//
// The methods take the first token of the value that they read. They do not recurse deeper than
// policies nest, so no document can exhaust the stack.
type reader struct {
	document string
	decoder  *json.Decoder
	position int // of the first byte of the last token, counted from 1
}

// newReader returns a reader for a document after checking that it is JSON in UTF-8 and not longer
// than MaxDocument.
func newReader(document string) (*reader, error) {
	if len(document) > MaxDocument {
		return nil, fmt.Errorf("the policy has %d bytes; the limit is %d", len(document), MaxDocument)
	}
	for i, c := range document {
		if c == utf8.RuneError && !strings.HasPrefix(document[i:], string(utf8.RuneError)) {
			return nil, fmt.Errorf("%s: the policy is not UTF-8", place(document, i))
		}
	}
	var whole json.RawMessage
	// Unmarshal accepts at most 10,000 levels and does not recurse.
	if err := json.Unmarshal([]byte(document), &whole); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return nil, fmt.Errorf("%s: the policy is not JSON: %w", place(document, int(syntax.Offset)-1), err)
		}
		return nil, err
	}
	r := &reader{document: document, decoder: json.NewDecoder(strings.NewReader(document))}
	r.decoder.UseNumber() // keeps a number as it is written, for its operator to parse
	return r, nil
}

// errorf returns an error with the place of the last token.
func (r *reader) errorf(format string, args ...any) error {
	return fmt.Errorf("%s: "+format, append([]any{place(r.document, r.position-1)}, args...)...)
}

// place returns the line, and the column in characters, of the byte at offset, both counted from 1.
func place(document string, offset int) string {
	before := document[:min(max(offset, 0), len(document))]
	line := 1 + strings.Count(before, "\n")
	column := 1 + utf8.RuneCountInString(before[strings.LastIndex(before, "\n")+1:])
	return fmt.Sprintf("line %d, column %d", line, column)
}

// next reads a token. It ignores the decoder's error: the document is known to be JSON, and no
// caller accepts the nil token that comes with an error.
func (r *reader) next() json.Token {
	rest := r.document[r.decoder.InputOffset():]
	r.position = len(r.document) - len(strings.TrimLeft(rest, " \t\r\n,:")) + 1
	token, _ := r.decoder.Token()
	return token
}

// object reads an object. It calls member after reading each name, and member reads the value.
func (r *reader) object(first json.Token, member func(name string) error) error {
	if first != json.Delim('{') {
		return r.errorf("expected an object")
	}
	seen := make(map[string]bool)
	for r.decoder.More() {
		name, err := r.text(r.next())
		if err != nil {
			return err
		}
		if seen[name] {
			return r.errorf("%.40q occurs twice", name)
		}
		seen[name] = true
		if err := member(name); err != nil {
			return err
		}
	}
	r.next() // }
	return nil
}

// list reads a list that must not be empty. It calls item to read each value.
func (r *reader) list(first json.Token, item func(first json.Token) error) error {
	if first != json.Delim('[') {
		return r.errorf("expected a list")
	}
	if !r.decoder.More() {
		return r.errorf("the list is empty")
	}
	for r.decoder.More() {
		if err := item(r.next()); err != nil {
			return err
		}
	}
	r.next() // ]
	return nil
}

// oneOrMany reads a list of values or a single value.
func (r *reader) oneOrMany(first json.Token, item func(first json.Token) error) error {
	if first == json.Delim('[') {
		return r.list(first, item)
	}
	return item(first)
}

// text reads a string.
func (r *reader) text(first json.Token) (string, error) {
	s, ok := first.(string)
	if !ok {
		return "", r.errorf("expected a string")
	}
	if strings.ContainsRune(s, utf8.RuneError) {
		// encoding/json replaces an unpaired surrogate like \ud800 by U+FFFD. The author meant the
		// value to match something else.
		return "", r.errorf("%.40q contains U+FFFD or an unpaired surrogate", s)
	}
	return s, nil
}

// eachText reads a string or a list of strings and calls f with each. It refuses empty strings.
func (r *reader) eachText(first json.Token, f func(string) error) error {
	return r.oneOrMany(first, func(first json.Token) error {
		s, err := r.text(first)
		if err != nil {
			return err
		}
		if s == "" {
			return r.errorf("an empty string matches nothing")
		}
		return f(s)
	})
}

// unknown returns the error for a name that is not among the known ones. The name is the last
// token.
func (r *reader) unknown(kind, name string, known []string) error {
	for _, k := range known {
		if strings.EqualFold(k, name) {
			return r.errorf("%q must be spelled %q", name, k)
		}
	}
	return r.errorf("unsupported %s %.40q (supported: %s)", kind, name, strings.Join(known, ", "))
}
