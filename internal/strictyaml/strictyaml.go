// Package strictyaml decodes YAML that people write, such as a plan or a seed. It refuses YAML that a
// writer can misread, and names the line of a mistake.
package strictyaml

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Decode decodes one document into a struct. Unknown fields, missing values, YAML's tags and aliases
// are errors, and so is text that is not UTF-8.
func Decode(text []byte, into any) error {
	if !utf8.Valid(text) || bytes.HasPrefix(text, []byte("\xef\xbb\xbf")) {
		return errors.New("it is not UTF-8, or begins with a byte order mark: save it as UTF-8")
	}
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err == nil && root.Content != nil {
		if err := checkPlain(&root); err != nil {
			return err
		}
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(into); errors.Is(err, io.EOF) {
		return errors.New("it is empty")
	} else if err != nil {
		return mistakes(err)
	}
	if !errors.Is(d.Decode(new(yaml.Node)), io.EOF) {
		return errors.New("something follows the first YAML document: remove it")
	}
	return nil
}

// checkPlain refuses what could be taken for something else: values that are missing, and YAML's tags
// and aliases.
func checkPlain(n *yaml.Node) error {
	switch {
	case n.Kind == yaml.AliasNode:
		return fmt.Errorf("line %d: YAML aliases are not supported: repeat the value", n.Line)
	case n.Style&yaml.TaggedStyle != 0:
		return fmt.Errorf("line %d: YAML tags are not supported: write the value without %s", n.Line, n.Tag)
	case n.ShortTag() == "!!null":
		return fmt.Errorf("line %d: a value is missing: give one, or remove its name", n.Line)
	}
	for _, child := range n.Content {
		if err := checkPlain(child); err != nil {
			return err
		}
	}
	return nil
}

// Go's names for types and what surrounds them, in errors of the YAML package.
var (
	unknownField = regexp.MustCompile(`field (\S+) not found in type \S+`)
	otherKind    = regexp.MustCompile("cannot unmarshal !!\\w+( `.*`)? into .+")
)

// mistakes rewrites an error of the YAML package without Go's names for types.
func mistakes(err error) error {
	var several *yaml.TypeError
	if !errors.As(err, &several) {
		return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	var all []error
	for _, text := range several.Errors {
		text = unknownField.ReplaceAllString(text, "there is no field $1")
		all = append(all, errors.New(otherKind.ReplaceAllString(text, "the value$1 is of the wrong kind")))
	}
	return errors.Join(all...)
}

// A Document is a policy in JSON. In a file it is YAML or text.
type Document string

// UnmarshalYAML implements yaml.Unmarshaler.
func (d *Document) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		if *d = Document(n.Value); n.Value == "" {
			return fmt.Errorf("line %d: a document is empty: give one, or remove its name", n.Line)
		}
		return nil
	}
	var value map[string]any
	if err := n.Decode(&value); err != nil {
		return err
	}
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("line %d: the document cannot be JSON: write the names of its members in quotes", n.Line)
	}
	*d = Document(text)
	return nil
}

// Equal reports whether two documents are the same JSON.
func (d Document) Equal(other string) bool {
	var a, b any
	if json.Unmarshal([]byte(d), &a) != nil || json.Unmarshal([]byte(other), &b) != nil {
		return string(d) == other
	}
	first, err := json.Marshal(a)
	second, otherErr := json.Marshal(b)
	return errors.Join(err, otherErr) == nil && bytes.Equal(first, second)
}
