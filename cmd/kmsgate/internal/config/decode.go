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

// decode fills a Config or a part of it from a node, and enters what is wrong
// with it. The YAML package's own decoding is not used: it says neither which
// section an unknown field is in nor that 1000000000000001 is no string.
func (l *ledger) decode(n *yaml.Node, field string, tag reflect.StructTag, out reflect.Value) {
	if err := plain(n); err != nil {
		l.wrong(field, "%v", err)
		return
	}
	var err error
	switch p := out.Addr().Interface().(type) {
	case *string:
		err = set(p, n, tag, text)
	case *int:
		err = set(p, n, tag, count)
	case *Size:
		err = set(p, n, tag, size)
	case *time.Duration:
		err = set(p, n, tag, duration)
	default:
		if out.Kind() == reflect.Slice {
			l.list(n, field, tag, out)
		} else {
			l.section(n, field, out)
		}
	}
	if err != nil {
		l.wrong(field, "%v", err)
	}
}

// set leaves the default where there is a mistake, so that no further ones
// follow from it.
func set[T any](p *T, n *yaml.Node, tag reflect.StructTag, read func(*yaml.Node, reflect.StructTag) (T, error)) error {
	v, err := read(n, tag)
	if err == nil {
		*p = v
	}
	return err
}

// plain refuses what a configuration has no need of, and what is empty: whether
// that means the default or nothing is anyone's guess.
func plain(n *yaml.Node) error {
	switch {
	case n.Kind == yaml.AliasNode:
		return fmt.Errorf("aliases are not supported: write the value out")
	case n.Style&yaml.TaggedStyle != 0:
		return fmt.Errorf("tags are not supported: write the value without %s", n.Tag)
	case n.ShortTag() == "!!null":
		return fmt.Errorf("has no value: give one, or remove the line for the default")
	}
	return nil
}

func (l *ledger) section(n *yaml.Node, field string, out reflect.Value) {
	if n.Kind != yaml.MappingNode {
		l.wrong(field, "must be a section: %s", strings.Join(names(out.Type()), ", "))
		return
	}
	seen := map[string]int{}
	for i := 0; i < len(n.Content); i += 2 {
		key := n.Content[i]
		name := within(field, keyName(key))
		l.lines[name] = key.Line
		f, known := fieldNamed(out.Type(), key)
		switch first, twice := seen[name]; {
		case !known:
			l.wrong(name, "there is no such field: %s", whatThere(out.Type(), field))
		case twice:
			l.wrong(name, "is given in line %d already: remove one", first)
		default:
			seen[name] = key.Line
			l.decode(n.Content[i+1], name, f.Tag, out.FieldByIndex(f.Index))
		}
	}
}

func (l *ledger) list(n *yaml.Node, field string, tag reflect.StructTag, out reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		l.wrong(field, "must be a list")
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
			l.wrong(name, "is empty: remove it")
		}
		out.Set(reflect.Append(out, v))
	}
}

var isWord = matches(`[A-Za-z0-9_-]{1,64}`)

// keyName is what to call a key of the file, which can be anything.
func keyName(key *yaml.Node) string {
	if isWord(key.Value) {
		return key.Value
	}
	return strconv.Quote(key.Value[:min(64, len(key.Value))])
}

// fieldNamed finds the field that a key is for.
func fieldNamed(section reflect.Type, key *yaml.Node) (reflect.StructField, bool) {
	if key.Kind != yaml.ScalarNode || plain(key) != nil {
		return reflect.StructField{}, false
	}
	i := slices.Index(names(section), key.Value)
	if i < 0 {
		return reflect.StructField{}, false
	}
	return section.Field(i), true
}

func whatThere(section reflect.Type, field string) string {
	if field == "" {
		field = "the file"
	}
	return fmt.Sprintf("%s has %s", field, strings.Join(names(section), ", "))
}

// names are the fields of a section as the file calls them.
func names(section reflect.Type) []string {
	all := make([]string, section.NumField())
	for i := range all {
		all[i] = section.Field(i).Tag.Get("yaml")
	}
	return all
}

// walk calls f with every field that is not a section.
func walk(v reflect.Value, section string, f func(field string, tag reflect.StructTag, v reflect.Value)) {
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		name := within(section, tag.Get("yaml"))
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
