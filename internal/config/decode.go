package config

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// decode decodes a node into out, a Config or a part of it, and reports mistakes. It does not
// use the YAML package's decoding, which names neither the section of an unknown field nor the
// mistake of a number that should be a string, such as 1000000000000001.
func (l *ledger) decode(n *yaml.Node, field string, tag reflect.StructTag, out reflect.Value) {
	if err := checkPlain(n); err != nil {
		l.report(field, "%v", err)
		return
	}
	var err error
	switch p := out.Addr().Interface().(type) {
	case *string:
		err = set(p, n, tag, decodeString)
	case *int:
		err = set(p, n, tag, decodeInt)
	case *Size:
		err = set(p, n, tag, decodeSize)
	case *time.Duration:
		err = set(p, n, tag, decodeDuration)
	default:
		if out.Kind() == reflect.Slice {
			l.decodeList(n, field, tag, out)
		} else {
			l.decodeSection(n, field, out)
		}
	}
	if err != nil {
		l.report(field, "%v", err)
	}
}

// set sets *p to the node's value. On an error it keeps the default, which causes no further
// mistakes.
func set[T any](
	p *T, n *yaml.Node, tag reflect.StructTag, decode func(*yaml.Node, reflect.StructTag) (T, error),
) error {
	v, err := decode(n, tag)
	if err == nil {
		*p = v
	}
	return err
}

// checkPlain refuses YAML features that a configuration does not need, and empty values, which
// could mean the default or an empty string.
func checkPlain(n *yaml.Node) error {
	switch {
	case n.Kind == yaml.AliasNode:
		return fmt.Errorf("YAML aliases are not supported: repeat the value")
	case n.Style&yaml.TaggedStyle != 0:
		return fmt.Errorf("YAML tags are not supported: write the value without %s", n.Tag)
	case n.ShortTag() == "!!null":
		return fmt.Errorf("has no value: set it, or remove the line to use the default")
	}
	return nil
}

func (l *ledger) decodeSection(n *yaml.Node, field string, out reflect.Value) {
	if n.Kind != yaml.MappingNode {
		l.report(field, "must be a section with the fields %s", strings.Join(fieldNames(out.Type()), ", "))
		return
	}
	seen := map[string]int{} // the line of each field
	for i := 0; i < len(n.Content); i += 2 {
		key := n.Content[i]
		name := fieldPath(field, keyName(key))
		l.lines[name] = key.Line
		f, known := fieldNamed(out.Type(), key)
		switch first, duplicate := seen[name]; {
		case !known:
			l.report(name, "unknown field (%s)", describeFields(out.Type(), field))
		case duplicate:
			l.report(name, "is already set in line %d: remove one of them", first)
		default:
			seen[name] = key.Line
			l.decode(n.Content[i+1], name, f.Tag, out.FieldByIndex(f.Index))
		}
	}
}

func (l *ledger) decodeList(n *yaml.Node, field string, tag reflect.StructTag, out reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		l.report(field, "must be a list")
		return
	}
	for i, element := range n.Content {
		name := fmt.Sprintf("%s[%d]", field, i)
		l.lines[name] = element.Line
		v := reflect.New(out.Type().Elem()).Elem()
		if listener, ok := v.Addr().Interface().(*Listener); ok {
			*listener = DefaultListener()
		}
		l.decode(element, name, tag, v)
		if v.IsZero() {
			l.report(name, "is empty: remove it")
		}
		out.Set(reflect.Append(out, v))
	}
}

var isWord = matches(`[A-Za-z0-9_-]{1,64}`)

// keyName returns the name of a key for messages. A key that is not a word is quoted and
// shortened.
func keyName(key *yaml.Node) string {
	if isWord(key.Value) {
		return key.Value
	}
	return strconv.Quote(key.Value[:min(64, len(key.Value))])
}

// fieldNamed returns the field of a section that a key names.
func fieldNamed(section reflect.Type, key *yaml.Node) (reflect.StructField, bool) {
	if key.Kind != yaml.ScalarNode || checkPlain(key) != nil {
		return reflect.StructField{}, false
	}
	i := slices.Index(fieldNames(section), key.Value)
	if i < 0 {
		return reflect.StructField{}, false
	}
	return section.Field(i), true
}

func describeFields(section reflect.Type, field string) string {
	if field == "" {
		field = "the file"
	}
	return fmt.Sprintf("%s has the fields %s", field, strings.Join(fieldNames(section), ", "))
}

// fieldNames returns the names of a section's fields in the file.
func fieldNames(section reflect.Type) []string {
	all := make([]string, section.NumField())
	for i := range all {
		all[i] = section.Field(i).Tag.Get("yaml")
	}
	return all
}

// walk calls f with every field that is not a section, with its full name and its tag.
func walk(v reflect.Value, section string, f func(field string, tag reflect.StructTag, v reflect.Value)) {
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		name := fieldPath(section, tag.Get("yaml"))
		if v.Field(i).Kind() == reflect.Struct {
			walk(v.Field(i), name, f)
			continue
		}
		f(name, tag, v.Field(i))
		if listeners, ok := v.Field(i).Interface().([]Listener); ok {
			for j := range listeners {
				walk(v.Field(i).Index(j), fmt.Sprintf("%s[%d]", name, j), f)
			}
		}
	}
}
