package kms

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// A Kind is how a parameter is written.
type Kind string

// The kinds of parameters.
const (
	Text    Kind = "text"
	Integer Kind = "integer"
	Boolean Kind = "boolean" // true or false, in any case
	Bytes   Kind = "bytes"   // standard Base64 with padding
	List    Kind = "list"    // Name.1, Name.2, …, or JSON
)

// A Parameter describes one parameter of an operation: a field of its request. What goes
// beyond a field's type is in its tag, as `kms:"required,min=1,max=100"`:
//
//	required     the request is refused if it is missing or empty
//	sent         the request is refused if it is missing
//	min=N max=N  bounds of an Integer
//	bytes=N      the most bytes of a Text
//	chars=N      the most characters of a Text, which has to be UTF-8 without control characters
//	oneof=A|B    the values of a Text
type Parameter struct {
	Name     string
	Kind     Kind
	Required bool
	Sent     bool
	Min, Max *int
	MaxBytes int // 0: no bound of its own
	MaxChars int
	OneOf    []string

	field int // of the request
}

// Limits says in a few words what the parameter's value is held to; empty for nothing.
func (p Parameter) Limits() string {
	switch {
	case p.Min != nil && p.Max != nil:
		return fmt.Sprintf("%d to %d", *p.Min, *p.Max)
	case p.Min != nil:
		return fmt.Sprintf("%d or more", *p.Min)
	case p.MaxBytes > 0:
		return fmt.Sprintf("at most %d bytes", p.MaxBytes)
	case p.MaxChars > 0:
		return fmt.Sprintf("at most %d characters", p.MaxChars)
	case p.OneOf != nil:
		return strings.Join(p.OneOf, " or ")
	}
	return ""
}

var parametersByType sync.Map // reflect.Type → []Parameter

func parametersOf(t reflect.Type) []Parameter {
	if known, ok := parametersByType.Load(t); ok {
		return known.([]Parameter)
	}
	var all []Parameter
	for i := range t.NumField() {
		all = append(all, newParameter(t.Field(i), i))
	}
	parametersByType.Store(t, all)
	return all
}

func newParameter(f reflect.StructField, i int) Parameter {
	p := Parameter{Name: f.Name, Kind: kindOf(f.Type), field: i}
	for word := range strings.SplitSeq(f.Tag.Get("kms"), ",") {
		name, value, _ := strings.Cut(word, "=")
		n, _ := strconv.Atoi(value) // a test sees that it is one
		switch name {
		case "required":
			p.Required = true
		case "sent":
			p.Sent = true
		case "min":
			p.Min = &n
		case "max":
			p.Max = &n
		case "bytes":
			p.MaxBytes = n
		case "chars":
			p.MaxChars = n
		case "oneof":
			p.OneOf = strings.Split(value, "|")
		case "":
		default:
			panic("kms: no parameter can be " + name)
		}
	}
	return p
}

func kindOf(t reflect.Type) Kind {
	switch {
	case t == of[string]() || t == of[*string]():
		return Text
	case t == of[*int]():
		return Integer
	case t == of[*bool]():
		return Boolean
	case t == of[[]byte]():
		return Bytes
	case t.Kind() == reflect.Slice:
		return List
	}
	panic("kms: no parameter can be a " + t.String())
}

// checkText refuses a text that the parameter's limits do not allow. An empty one is not
// judged: it is as good as none.
func (p Parameter) checkText(text string) error {
	switch {
	case text == "":
	case p.MaxBytes > 0 && len(text) > p.MaxBytes:
		return InvalidParameter(p.Name, "it has more than %d bytes", p.MaxBytes)
	case p.MaxChars > 0 && (!IsText(text) || utf8.RuneCountInString(text) > p.MaxChars):
		return InvalidParameter(p.Name, "it has to be UTF-8 of at most %d characters, without control characters", p.MaxChars)
	case p.OneOf != nil && !slices.Contains(p.OneOf, text):
		return InvalidParameter(p.Name, "%q is not one of %v", Clip(text), p.OneOf)
	}
	return nil
}

func (p Parameter) checkInteger(n int) error {
	switch {
	case p.Min != nil && p.Max != nil && (n < *p.Min || n > *p.Max):
		return InvalidParameter(p.Name, "%d is not %d to %d", n, *p.Min, *p.Max)
	case p.Min != nil && n < *p.Min:
		return InvalidParameter(p.Name, "%d is not %d or more", n, *p.Min)
	case p.Max != nil && n > *p.Max:
		return InvalidParameter(p.Name, "%d is more than %d", n, *p.Max)
	}
	return nil
}

// IsText reports whether s is UTF-8 that XML can carry.
func IsText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0xFFFE || r == 0xFFFF
	})
}
