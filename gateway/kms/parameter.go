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

// A Kind is the type of a parameter's value.
type Kind string

// The kinds of parameters.
const (
	Text    Kind = "text"
	Integer Kind = "integer"
	Boolean Kind = "boolean" // true or false, in any letter case
	Bytes   Kind = "bytes"   // standard Base64 with padding
	List    Kind = "list"    // sent as Name.1, Name.2, …, or as JSON
)

// A Parameter describes a parameter of an operation: a field of its request. The tag of the field,
// such as `kms:"required,min=1,max=100"`, states the limits that its type does not:
//
//	required     the request is refused if the parameter is missing or empty
//	sent         the request is refused if the parameter is missing
//	min=N max=N  the bounds of an Integer
//	bytes=N      the maximum length of a Text, in bytes
//	chars=N      the maximum length of a Text, in characters; it must be UTF-8 without control
//	             characters
//	oneof=A|B    the values of a Text
type Parameter struct {
	Name     string
	Kind     Kind
	Required bool
	Sent     bool
	Min, Max *int
	MaxBytes int // zero means no limit
	MaxChars int // zero means no limit
	OneOf    []string

	optional bool // the field is a *string
}

// Limits returns a short description of the limits of the parameter's value, for the
// documentation. It is empty if there are none.
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

// parametersOf returns the parameters of a request's type, in the order of its fields.
func parametersOf(t reflect.Type) []Parameter {
	if known, ok := parametersByType.Load(t); ok {
		return known.([]Parameter)
	}
	var all []Parameter
	for i := range t.NumField() {
		all = append(all, newParameter(t.Field(i)))
	}
	parametersByType.Store(t, all)
	return all
}

func newParameter(f reflect.StructField) Parameter {
	p := Parameter{Name: f.Name, Kind: kindOf(f.Type), optional: f.Type == reflect.TypeFor[*string]()}
	for word := range strings.SplitSeq(f.Tag.Get("kms"), ",") {
		name, value, _ := strings.Cut(word, "=")
		n, _ := strconv.Atoi(value) // TestParameters checks the numbers
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
			panic("kms: unknown word in a field's tag: " + name)
		}
	}
	return p
}

func kindOf(t reflect.Type) Kind {
	switch {
	case t == reflect.TypeFor[string]() || t == reflect.TypeFor[*string]():
		return Text
	case t == reflect.TypeFor[*int]():
		return Integer
	case t == reflect.TypeFor[*bool]():
		return Boolean
	case t == reflect.TypeFor[[]byte]():
		return Bytes
	case t.Kind() == reflect.Slice:
		return List
	}
	panic("kms: a request's field has the unsupported type " + t.String())
}

// checkText returns an InvalidParameter error if text exceeds the parameter's limits. It accepts
// an empty text, which means the same as a missing parameter.
func (p *Parameter) checkText(text string) error {
	switch {
	case text == "":
	case p.MaxBytes > 0 && len(text) > p.MaxBytes:
		return InvalidParameter(p.Name, "it has more than %d bytes", p.MaxBytes)
	case p.MaxChars > 0 && (!IsText(text) || utf8.RuneCountInString(text) > p.MaxChars):
		return InvalidParameter(p.Name,
			"it must be at most %d characters of UTF-8 without control characters", p.MaxChars)
	case p.OneOf != nil && !slices.Contains(p.OneOf, text):
		return InvalidParameter(p.Name, "%q is not one of %v", Clip(text), p.OneOf)
	}
	return nil
}

func (p *Parameter) checkInteger(n int) error {
	switch {
	case p.Min != nil && p.Max != nil && (n < *p.Min || n > *p.Max):
		return InvalidParameter(p.Name, "%d is not in the range %d to %d", n, *p.Min, *p.Max)
	case p.Min != nil && n < *p.Min:
		return InvalidParameter(p.Name, "%d is less than %d", n, *p.Min)
	case p.Max != nil && n > *p.Max:
		return InvalidParameter(p.Name, "%d is more than %d", n, *p.Max)
	}
	return nil
}

// IsText reports whether s is valid UTF-8 whose characters are all allowed in XML.
func IsText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0xFFFE || r == 0xFFFF
	})
}
