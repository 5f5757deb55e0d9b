package main

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"
)

func TestDocument(t *testing.T) {
	for in, want := range map[string]string{
		`{"a":"\u001b\\"}`:   "{\n  \"a\": \"\\u001b\\\\\"\n}\n",
		"{\"a\":\"\u009b\"}": "{\n  \"a\": \"\\u009b\"\n}\n",
		"no JSON\x1b":        "no JSON\\x1b\n",
	} {
		if got := document(in); got != want {
			t.Errorf("document(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestInert(t *testing.T) {
	for in, want := range map[string]string{
		"":                "",
		"alice":           "alice",
		"a=1":             "a=1",
		`=HYPERLINK("x")`: `'=HYPERLINK("x")`,
		"+1":              "'+1",
		"-1":              "'-1",
		"@SUM(A1)":        "'@SUM(A1)",
		"  =1":            "'  =1",
		"＝1":              "'＝1",
	} {
		if got := inert(in); got != want {
			t.Errorf("inert(%q) = %s, want %s", in, got, want)
		}
	}
}

// TestEveryFieldExported fills every field of a line and finds it in the CSV: a
// field that is added to the log is exported without being listed.
func TestEveryFieldExported(t *testing.T) {
	lines, names := hostileLines("x"), csvColumns()
	for _, name := range names {
		entry, err := csvCell(fieldOf(lines[0], name))
		event, err2 := csvCell(fieldOf(lines[1], name))
		if err != nil || err2 != nil || entry+event == "" {
			t.Errorf("%s is %q and %q, %v, %v", name, entry, event, err, err2)
		}
	}
	// What only JSON has would be missing.
	for _, line := range lines {
		text, err := json.Marshal(line)
		var fields map[string]any
		if err := errors.Join(err, json.Unmarshal(text, &fields)); err != nil {
			t.Fatal(err)
		}
		for name := range fields {
			if !slices.Contains(names, name) {
				t.Errorf("%s is not exported", name)
			}
		}
	}
	if len(names) < 25 {
		t.Errorf("there are only %d fields", len(names))
	}
}
