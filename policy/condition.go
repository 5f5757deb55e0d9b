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

// A condition is one operator applied to one condition key.
type condition struct {
	key     string
	negated bool
	values  matcher
}

func (c condition) holds(r *Request) bool {
	value, ok := r.Value(c.key)
	return (ok && c.values.matches(value)) != c.negated
}

// A kind is the type of a condition key's values.
type kind int

const (
	text kind = iota
	number
	date
	boolean
	address
)

// conditionKeys are the condition keys except those of tags, with the kinds of their values.
var conditionKeys = map[string]kind{
	"acs:CurrentTime":     date,
	"acs:MFAPresent":      boolean,
	"acs:SecureTransport": boolean,
	"acs:SourceIp":        address,
}

// tagKey is the prefix of the condition keys of tags. Their values are of kind text.
const tagKey = "kms:tag/"

// An operator compares a request's value with a document's. A negated operator uses the matcher of
// the positive one and negates its result.
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

func equal(pattern, value string) bool { return pattern == value }

// The following functions interpret the order of the request's value relative to the document's, in
// the manner of cmp.Compare.
func isEqual(order int) bool          { return order == 0 }
func isLess(order int) bool           { return order < 0 }
func isLessOrEqual(order int) bool    { return order <= 0 }
func isGreater(order int) bool        { return order > 0 }
func isGreaterOrEqual(order int) bool { return order >= 0 }

func texts(compare func(pattern, value string) bool) func() matcher {
	identity := func(s string) (string, error) { return s, nil }
	return func() matcher { return &anyOf[string, string]{parse: identity, parseValue: identity, compare: compare} }
}

func numbers(accept func(order int) bool) func() matcher {
	compare := func(operand, value *big.Rat) bool { return accept(value.Cmp(operand)) }
	return func() matcher {
		return &anyOf[*big.Rat, *big.Rat]{parse: parseNumber, parseValue: parseNumber, compare: compare}
	}
}

func dates(accept func(order int) bool) func() matcher {
	compare := func(operand, value time.Time) bool { return accept(value.Compare(operand)) }
	return func() matcher {
		return &anyOf[time.Time, time.Time]{parse: parseDate, parseValue: parseDate, compare: compare}
	}
}

func booleans() matcher {
	compare := func(operand, value bool) bool { return operand == value }
	return &anyOf[bool, bool]{parse: parseBool, parseValue: parseBool, compare: compare}
}

func addresses() matcher {
	return &anyOf[netip.Prefix, netip.Addr]{
		parse: parsePrefix, parseValue: parseRequestAddress, compare: netip.Prefix.Contains,
	}
}

// A matcher holds the values of one condition in a document.
type matcher interface {
	add(operand string) error // fails if the operator cannot parse the operand
	matches(value string) bool
}

// anyOf is a matcher that compares a document's operands of type D with a request's value of type
// V. It parses the request's value once for all operands.
type anyOf[D, V any] struct {
	parse      func(string) (D, error)
	parseValue func(string) (V, error)
	compare    func(operand D, value V) bool
	operands   []D
}

func (a *anyOf[D, V]) add(operand string) error {
	parsed, err := a.parse(operand)
	a.operands = append(a.operands, parsed)
	return err
}

func (a *anyOf[D, V]) matches(value string) bool {
	parsed, err := a.parseValue(value)
	return err == nil && slices.ContainsFunc(a.operands, func(operand D) bool { return a.compare(operand, parsed) })
}

// readConditions reads the conditions of a statement. It refuses empty objects and lists at any
// depth. An Allow with an empty Condition would be unconditional, which its author cannot have
// meant. An operator without values would hold never or always.
func readConditions(r *reader, first json.Token, s *statement) error {
	if err := r.object(first, func(name string) error {
		op, known := operators[name]
		if !known {
			return r.unknown("condition operator", name, slices.Sorted(maps.Keys(operators)))
		}
		before := len(s.conditions)
		if err := r.object(r.next(), func(key string) error { return op.read(r, key, s) }); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if len(s.conditions) == before {
			return r.errorf("%s has no condition key", name)
		}
		return nil
	}); err != nil {
		return err
	}
	if len(s.conditions) == 0 {
		return r.errorf("the Condition has no operator")
	}
	return nil
}

// read reads the values of a key.
func (op operator) read(r *reader, key string, s *statement) error {
	if err := op.checkKey(r, key); err != nil {
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
	s.conditions = append(s.conditions, condition{key, op.negated, values})
	return nil
}

// checkKey refuses an unknown key and one whose values the operator cannot compare. Such a
// condition would hold never or always.
func (op operator) checkKey(r *reader, key string) error {
	keyKind, known := conditionKeys[key]
	if tag, ok := strings.CutPrefix(key, tagKey); ok && tag != "" {
		keyKind, known = text, true
	}
	if !known {
		return r.unknown("condition key", key, append(slices.Sorted(maps.Keys(conditionKeys)), tagKey+"<tag-key>"))
	}
	if op.kind != text && keyKind != text && op.kind != keyKind {
		return r.errorf("the operator cannot compare the values of %s", key)
	}
	return nil
}

// value reads one value. RAM's documentation quotes every value. The numeric and Boolean operators
// also accept unquoted values, which are unambiguous there.
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
