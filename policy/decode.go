package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// A reader reads a JSON document token by token, into the shape that its caller
// asks for and no other. encoding/json's own decoding into structs would take
// the last of two members of one name, members in another case, and null for
// anything.
//
// Its methods get the first token of the value that they read. They never call
// themselves on what a document nests deeper than policies do, so no document
// grows the stack.
type reader struct {
	document string
	decoder  *json.Decoder
	at       int // where the last token begins, in bytes from 1
}

// newReader checks that a document is JSON.
func newReader(document string) (*reader, error) {
	if len(document) > MaxDocument {
		return nil, fmt.Errorf("the policy has %d bytes, more than %d", len(document), MaxDocument)
	}
	for i, c := range document {
		if c == utf8.RuneError && !strings.HasPrefix(document[i:], string(utf8.RuneError)) {
			return nil, fmt.Errorf("at byte %d: the policy is not UTF-8", i+1)
		}
	}
	var whole json.RawMessage
	if err := json.Unmarshal([]byte(document), &whole); err != nil { // nests at most 10,000 deep, and does not recurse
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return nil, fmt.Errorf("at byte %d: the policy is not JSON: %w", syntax.Offset, err)
		}
		return nil, err
	}
	r := &reader{document: document, decoder: json.NewDecoder(strings.NewReader(document))}
	r.decoder.UseNumber() // as it is written: it is parsed by its operator
	return r, nil
}

func (r *reader) errorf(format string, args ...any) error {
	return fmt.Errorf("at byte %d: "+format, append([]any{r.at}, args...)...)
}

// next reads a token. The document is JSON, so there is one; nil, were there an
// error, is no token that anything here takes.
func (r *reader) next() json.Token {
	rest := r.document[r.decoder.InputOffset():]
	r.at = len(r.document) - len(strings.TrimLeft(rest, " \t\r\n,:")) + 1
	token, _ := r.decoder.Token()
	return token
}

// object reads an object, and has member read the value of each of its members,
// whose name is the last token when it is called.
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
			return r.errorf("%.40q is there twice", name)
		}
		seen[name] = true
		if err := member(name); err != nil {
			return err
		}
	}
	r.next() // }
	return nil
}

// list reads a list, which has something in it, and has item read what is in it.
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

// oneOrMany reads a value that is in a list or stands for a list of itself.
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
		// encoding/json puts it for \ud800 and the like. Such a value was meant to
		// match something else.
		return "", r.errorf("%.40q has the character U+FFFD, or half a surrogate pair", s)
	}
	return s, nil
}

// eachText reads a string or a list of strings, none of them empty, and has take
// take each.
func (r *reader) eachText(first json.Token, take func(string) error) error {
	return r.oneOrMany(first, func(first json.Token) error {
		s, err := r.text(first)
		if err != nil {
			return err
		}
		if s == "" {
			return r.errorf("an empty string matches nothing")
		}
		return take(s)
	})
}

// unknown is the error for a name, the last token, that is none of those known.
func (r *reader) unknown(what, name string, known []string) error {
	for _, k := range known {
		if strings.EqualFold(k, name) {
			return r.errorf("%q is spelled %q", name, k)
		}
	}
	return r.errorf("%.40q is no %s that is evaluated, which are %s", name, what, strings.Join(known, ", "))
}
