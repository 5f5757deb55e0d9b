package auditlog

import (
	"fmt"
	"slices"
	"time"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

// A Field is something of lines that a Filter can ask for.
type Field struct {
	Name   string // as a flag has it
	Kind   string // of its values, as help has it
	Usage  string // what "only lines …" goes on with
	values func(l audit.Line) []string
}

// Fields returns all fields that a Filter can ask for.
func Fields() []Field {
	return []Field{
		{"user", "NAME", "of this user's requests", func(l audit.Line) []string { return []string{entryOf(l).Principal} }},
		{"action", "ACTION", "of this operation, as AsymmetricSign", func(l audit.Line) []string { return []string{entryOf(l).Action} }},
		{"key", "ID", "about the key with this KeyId or KeyVersionId", func(l audit.Line) []string { return []string{entryOf(l).KeyId, entryOf(l).KeyVersionId} }},
		{"alias", "alias/NAME", "of requests that used this alias", func(l audit.Line) []string { return []string{entryOf(l).Alias} }},
		{"access-key", "ID", "of requests that claimed this AccessKeyId", func(l audit.Line) []string { return []string{entryOf(l).AccessKeyId} }},
		{"source", "IP", "of requests from this address", func(l audit.Line) []string { return []string{sourceOf(l)} }},
		{"code", "CODE", "of requests that had this answer: ok, or an error as Forbidden.NoPermission", func(l audit.Line) []string { return []string{outcome(l)} }},
		{"request-id", "ID", "of this request", func(l audit.Line) []string { return []string{entryOf(l).RequestId} }},
	}
}

// A Filter selects lines: those that have all it asks for. The zero Filter selects
// all.
type Filter struct {
	Since, Until time.Time // Since is included, Until is not; zero: no bound

	wanted []wanted
}

type wanted struct {
	Field
	value string
}

// Want has the filter ask for a value of a field. A line that lacks the field has
// the value "".
func (f *Filter) Want(field Field, value string) { f.wanted = append(f.wanted, wanted{field, value}) }

// Match reports whether a line has all that the filter asks for.
func (f *Filter) Match(line audit.Line) bool {
	made := line.Time()
	if !f.Since.IsZero() && made.Before(f.Since) || !f.Until.IsZero() && !made.Before(f.Until) {
		return false
	}
	return !slices.ContainsFunc(f.wanted, func(w wanted) bool { return !slices.Contains(w.values(line), w.value) })
}

// ParseTime reads a point in time, or how long before now it was. Empty text is the
// zero time.
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
	return time.Time{}, fmt.Errorf("%q is neither a time, as 2026-11-22T08:00:00Z or 2026-11-22, nor how long ago, as 24h", text)
}
