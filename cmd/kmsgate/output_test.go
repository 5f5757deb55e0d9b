package main

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"":                       "",
		"alias/中文 é 🔑":           "alias/中文 é 🔑",
		`say "hi"`:               `say "hi"`,
		"\x1b[2J":                `\x1b[2J`,
		"a\nb\tc\rd":             `a\nb\tc\rd`,
		"\u009b2J":               `\u009b2J`, // the same as \x1b[, in one character
		"\x9b2J":                 `\x9b2J`,
		"a\u202eb":               `a\u202eb`, // what follows reads from right to left
		"a\u2066b\u2028c":        `a\u2066b\u2028c`,
		"a\u00a0b\u3000c":        `a\u00a0b\u3000c`,
		`\x1b`:                   `\\x1b`, // not what the escape would be
		`\"`:                     `\\"`,
		"\u007f\u200b\U000e0041": `\u007f\u200b\U000e0041`,
	} {
		if got := plain(in); got != want && got != strings.ReplaceAll(want, `\u007f`, `\x7f`) {
			t.Errorf("plain(%q) = %s, want %s", in, got, want)
		}
	}
}

// TestPlainJSON escapes what cannot be printed, and says the same.
func TestPlainJSON(t *testing.T) {
	for _, s := range []string{"a", "\u009b2J", "\u007f", "a\u202eb", "\U000e0041", "中🔑", `\u009b`, "\n\t\x00"} {
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		got := string(plainJSON(text))
		var back string
		if err := json.Unmarshal([]byte(got), &back); err != nil || back != s {
			t.Errorf("plainJSON(%s) = %s, which says %q, %v", text, got, back, err)
		}
		if plain(strings.ReplaceAll(got, `\`, "")) != strings.ReplaceAll(got, `\`, "") {
			t.Errorf("plainJSON(%s) = %q", text, got)
		}
	}
}

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
