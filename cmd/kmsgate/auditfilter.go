package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

// A filter selects lines of the log: those that have all that is asked for.
type filter struct {
	tests        []test
	since, until string
}

// A test asks for one of the values of a line to be the parameter's.
type test struct {
	*parameter
	values func(line audit.Line) []string
}

func newFilter() *filter {
	by := func(flag, kind, usage string, values func(line audit.Line) []string) test {
		return test{&parameter{flag: flag, kind: kind, usage: "only lines " + usage}, values}
	}
	return &filter{tests: []test{
		by("user", "NAME", "of this user's requests", func(l audit.Line) []string { return []string{entryOf(l).Principal} }),
		by("action", "ACTION", "of this operation, as AsymmetricSign", func(l audit.Line) []string { return []string{entryOf(l).Action} }),
		by("key", "ID", "about the key with this KeyId or KeyVersionId", func(l audit.Line) []string { return []string{entryOf(l).KeyId, entryOf(l).KeyVersionId} }),
		by("alias", "alias/NAME", "of requests that used this alias", func(l audit.Line) []string { return []string{entryOf(l).Alias} }),
		by("access-key", "ID", "of requests that claimed this AccessKeyId", func(l audit.Line) []string { return []string{entryOf(l).AccessKeyId} }),
		by("source", "IP", "of requests from this address", func(l audit.Line) []string { return []string{sourceOf(l)} }),
		by("code", "CODE", "of requests that had this answer: ok, or an error as Forbidden.NoPermission", func(l audit.Line) []string { return []string{outcome(l)} }),
		by("request-id", "ID", "of this request", func(l audit.Line) []string { return []string{entryOf(l).RequestId} }),
	}}
}

func (f *filter) addTo(cmd *cobra.Command) {
	for _, t := range f.tests {
		t.addTo(cmd)
	}
	for _, end := range []struct {
		flag, usage string
		value       *string
	}{
		{"since", "only lines of this `TIME` or later: as 2026-11-22T08:00:00Z, as 2026-11-22, or as 24h for so long ago", &f.since},
		{"until", "only lines before this `TIME`", &f.until},
	} {
		cmd.Flags().StringVar(end.value, end.flag, "", end.usage)
	}
}

// match makes a function of the flags.
func (f *filter) match() (func(line audit.Line) bool, error) {
	since, err := parseTime("since", f.since)
	if err != nil {
		return nil, err
	}
	until, err := parseTime("until", f.until)
	if err != nil {
		return nil, err
	}
	return func(line audit.Line) bool {
		if !since.IsZero() && line.Time().Before(since) || !until.IsZero() && !line.Time().Before(until) {
			return false
		}
		return !slices.ContainsFunc(f.tests, func(t test) bool {
			wanted := t.parameter.values
			return len(wanted) > 0 && !slices.Contains(t.values(line), wanted[0])
		})
	}, nil
}

// parseTime reads a point in time, or how long ago it was.
func parseTime(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil {
		return time.Now().Add(-ago), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("--%s: %q is neither a time, as 2026-11-22T08:00:00Z or 2026-11-22, nor how long ago, as 24h", flag, text)
}
