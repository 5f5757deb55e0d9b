package policy

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// A condition is one key under one operator.
type condition struct {
	key     string
	negated bool
	values  matcher
}

func (c condition) holds(values map[string]string) bool {
	value, ok := values[c.key]
	return (ok && c.values.matches(value)) != c.negated
}

// kind is what values are of.
type kind int

const (
	text kind = iota
	number
	date
	boolean
	address
)

// conditionKeys are the keys, but for tags, and what their values are.
var conditionKeys = map[string]kind{
	"acs:CurrentTime":     date,
	"acs:MFAPresent":      boolean,
	"acs:SecureTransport": boolean,
	"acs:SourceIp":        address,
}

// tagKey begins the keys of tags, which are texts.
const tagKey = "kms:tag/"

// An operator is the comparison of a request's value with a document's. A
// negated one has the values of its positive one.
type operator struct {
	kind    kind
	values  func() matcher
	negated bool
}

var operators = map[string]operator{
	"StringEquals":              {kind: text, values: texts(equal)},
	"StringNotEquals":           {text, texts(equal), true},
	"StringEqualsIgnoreCase":    {kind: text, values: texts(strings.EqualFold)},
	"StringNotEqualsIgnoreCase": {text, texts(strings.EqualFold), true},
	"StringLike":                {kind: text, values: texts(match)},
	"StringNotLike":             {text, texts(match), true},
	"NumericEquals":             {kind: number, values: numbers(isEqual)},
	"NumericNotEquals":          {number, numbers(isEqual), true},
	"NumericLessThan":           {kind: number, values: numbers(isLess)},
	"NumericLessThanEquals":     {kind: number, values: numbers(isLessOrEqual)},
	"NumericGreaterThan":        {kind: number, values: numbers(isGreater)},
	"NumericGreaterThanEquals":  {kind: number, values: numbers(isGreaterOrEqual)},
	"DateEquals":                {kind: date, values: dates(isEqual)},
	"DateNotEquals":             {date, dates(isEqual), true},
	"DateLessThan":              {kind: date, values: dates(isLess)},
	"DateLessThanEquals":        {kind: date, values: dates(isLessOrEqual)},
	"DateGreaterThan":           {kind: date, values: dates(isGreater)},
	"DateGreaterThanEquals":     {kind: date, values: dates(isGreaterOrEqual)},
	"Bool":                      {kind: boolean, values: booleans},
	"IpAddress":                 {kind: address, values: addresses},
	"NotIpAddress":              {address, addresses, true},
}

func equal(of, value string) bool { return of == value }

// What cmp.Compare of the request's value with the document's tells.
func isEqual(order int) bool          { return order == 0 }
func isLess(order int) bool           { return order < 0 }
func isLessOrEqual(order int) bool    { return order <= 0 }
func isGreater(order int) bool        { return order > 0 }
func isGreaterOrEqual(order int) bool { return order >= 0 }

func texts(compare func(of, value string) bool) func() matcher {
	same := func(s string) (string, error) { return s, nil }
	return func() matcher { return &anyOf[string, string]{parse: same, parseValue: same, compare: compare} }
}

func numbers(is func(order int) bool) func() matcher {
	compare := func(of, value *big.Rat) bool { return is(value.Cmp(of)) }
	return func() matcher {
		return &anyOf[*big.Rat, *big.Rat]{parse: parseNumber, parseValue: parseNumber, compare: compare}
	}
}

func dates(is func(order int) bool) func() matcher {
	compare := func(of, value time.Time) bool { return is(value.Compare(of)) }
	return func() matcher {
		return &anyOf[time.Time, time.Time]{parse: parseDate, parseValue: parseDate, compare: compare}
	}
}

func booleans() matcher {
	return &anyOf[bool, bool]{parse: parseBool, parseValue: parseBool, compare: func(of, value bool) bool { return of == value }}
}

func addresses() matcher {
	return &anyOf[netip.Prefix, netip.Addr]{parse: parsePrefix, parseValue: parseCaller, compare: netip.Prefix.Contains}
}

// A matcher has the values that a document has for one condition.
type matcher interface {
	add(value string) error // fails if the operator can't read the value
	matches(value string) bool
}

// anyOf is a matcher of values of type D with a request's of type V. It parses a
// request's value once, however many there are to compare it with.
type anyOf[D, V any] struct {
	parse      func(string) (D, error)
	parseValue func(string) (V, error)
	compare    func(of D, value V) bool
	values     []D
}

func (a *anyOf[D, V]) add(value string) error {
	parsed, err := a.parse(value)
	a.values = append(a.values, parsed)
	return err
}

func (a *anyOf[D, V]) matches(value string) bool {
	parsed, err := a.parseValue(value)
	return err == nil && slices.ContainsFunc(a.values, func(of D) bool { return a.compare(of, parsed) })
}

// readConditions refuses what is empty at any depth: an Allow with an empty
// Condition would be one without any, which nobody means who writes one, and an
// operator without values never holds, or always: a statement without effect.
func readConditions(r *reader, first json.Token, into *statement) error {
	if err := r.object(first, func(name string) error {
		op, known := operators[name]
		if !known {
			return r.unknown("condition operator", name, slices.Sorted(maps.Keys(operators)))
		}
		before := len(into.conditions)
		if err := r.object(r.next(), func(key string) error { return op.read(r, key, into) }); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if len(into.conditions) == before {
			return r.errorf("%s has no condition key", name)
		}
		return nil
	}); err != nil {
		return err
	}
	if len(into.conditions) == 0 {
		return r.errorf("no condition operator")
	}
	return nil
}

// read reads the values of a key.
func (op operator) read(r *reader, key string, into *statement) error {
	if err := op.fits(r, key); err != nil {
		return err
	}
	values := op.values()
	if err := r.oneOrMany(r.next(), func(first json.Token) error {
		value, err := op.value(r, first)
		if err != nil {
			return err
		}
		if err := values.add(value); err != nil {
			return r.errorf("%.40q is %w", value, err)
		}
		return nil
	}); err != nil {
		return fmt.Errorf("%.80q: %w", key, err)
	}
	into.conditions = append(into.conditions, condition{key, op.negated, values})
	return nil
}

// fits refuses keys that are unknown, and those of another type than the
// operator's: that could never hold, or always would.
func (op operator) fits(r *reader, key string) error {
	of, known := conditionKeys[key]
	if tag, ok := strings.CutPrefix(key, tagKey); ok && tag != "" {
		of, known = text, true
	}
	if !known {
		return r.unknown("condition key", key, append(slices.Sorted(maps.Keys(conditionKeys)), tagKey+"<tag-key>"))
	}
	if op.kind != text && of != text && op.kind != of {
		return r.errorf("the operator never holds for the values of %s", key)
	}
	return nil
}

// value reads one value. RAM's documentation puts all of them in quotes; numbers
// and Booleans without are unmistakable where their operators stand.
func (op operator) value(r *reader, first json.Token) (string, error) {
	switch first := first.(type) {
	case json.Number:
		if op.kind == number {
			return first.String(), nil
		}
	case bool:
		if op.kind == boolean {
			return fmt.Sprint(first), nil
		}
	}
	return r.text(first)
}
