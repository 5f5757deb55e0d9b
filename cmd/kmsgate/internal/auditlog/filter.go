package auditlog

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

// A Field is a property of lines that a Filter can select by.
type Field struct {
	Name   string // the name of the flag
	Kind   string // the name of the value in the flag's help
	Usage  string // the flag's help, after "only lines"
	fold   bool   // match without regard to case, as policies match actions
	values func(l audit.Line) []string
}

// Fields returns all fields that a Filter can select by.
func Fields() []Field {
	value := func(f func(e audit.Entry) string) func(audit.Line) []string {
		return func(l audit.Line) []string { return []string{f(entryOf(l))} }
	}
	return []Field{
		{"user", "NAME", "of this user's requests, or on behalf of the user", false,
			func(l audit.Line) []string {
				return []string{cmp.Or(entryOf(l).Principal, eventOf(l).Principal), entryOf(l).OnBehalfOf}
			}},
		{"login", "UID", "of local people who logged in with this uid", false,
			value(func(e audit.Entry) string { return e.LoginUid })},
		{"action", "ACTION", "of this operation, such as AsymmetricSign", true,
			value(func(e audit.Entry) string { return e.Action })},
		{"key", "ID", "about the key with this KeyId or KeyVersionId", false,
			func(l audit.Line) []string { return []string{entryOf(l).KeyId, entryOf(l).KeyVersionId} }},
		{"alias", "alias/NAME", "of requests that used this " +
			"alias", false, value(func(e audit.Entry) string { return e.Alias })},
		{"access-key", "ID", "of requests that named this AccessKeyId", false,
			value(func(e audit.Entry) string { return e.AccessKeyId })},
		{"source", "IP", "of requests from this " +
			"address", false, func(l audit.Line) []string { return []string{sourceOf(l)} }},
		{"code", "CODE", "of requests with this result: OK, intended (signatures), or an error code such as Forbidden.NoPermission", true,
			func(l audit.Line) []string { return []string{outcome(l)} }},
		{"reference", "TEXT", "of requests that belong to this, such as a line of a batch", false,
			value(func(e audit.Entry) string { return e.Reference })},
		{"request-id", "ID", "of this request", false, value(func(e audit.Entry) string { return e.RequestId })},
	}
}

// A Filter selects the lines that meet all its conditions. The zero Filter selects all
// lines.
type Filter struct {
	Since, Until time.Time // Since is included, Until is not; zero: no bound

	conditions []condition
}

// A condition requires a value of a field.
type condition struct {
	Field
	value string
}

// Require adds the condition that a field has a value. The value of a field that a line lacks
// is "".
func (f *Filter) Require(field Field, value string) {
	f.conditions = append(f.conditions, condition{field, value})
}

// Match reports whether a line meets all conditions of the filter.
func (f *Filter) Match(line audit.Line) bool {
	t := line.Time()
	if !f.Since.IsZero() && t.Before(f.Since) || !f.Until.IsZero() && !t.Before(f.Until) {
		return false
	}
	return !slices.ContainsFunc(f.conditions, func(c condition) bool { return !c.match(line) })
}

func (c condition) match(line audit.Line) bool {
	return slices.ContainsFunc(c.values(line), func(value string) bool {
		return value == c.value || c.fold && strings.EqualFold(value, c.value)
	})
}

// ParseTime parses a point in time, or a duration before now. An empty text is the zero time.
// A time without a zone is in UTC.
func ParseTime(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil {
		return now.Add(-ago), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is neither a time, such as 2026-11-22T08:00:00Z or 2026-11-22, nor a duration "+
		"before now, such as 24h", text)
}
