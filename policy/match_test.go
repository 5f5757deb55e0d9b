package policy

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzMatch compares the matcher with the definition, written naively.
func FuzzMatch(f *testing.F) {
	for _, seed := range [][2]string{
		{"kms:*", "kms:AsymmetricSign"}, {"a*b?c*", "aXbYcb?c"}, {"***?", "x"}, {"", ""}, {"*??", "世"}, {"*??c*", "世cd"}, {"?*世", "世界世"}, {"*?", "世\xe4a"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern) > 12 || len(s) > 12 || !utf8.ValidString(pattern) {
			return // the naive one takes exponential time; Parse takes UTF-8 only
		}
		got, steps := matchSteps(pattern, s)
		if want := naive(strings.Split(pattern, ""), strings.Split(s, "")); got != want {
			t.Errorf("match(%q, %q) = %v, want %v", pattern, s, got, want)
		}
		if steps > bound(pattern, s) {
			t.Errorf("match(%q, %q) takes %d steps, more than %d", pattern, s, steps, bound(pattern, s))
		}
	})
}

// naive takes both as lists of characters.
func naive(pattern, s []string) bool {
	switch {
	case len(pattern) == 0:
		return len(s) == 0
	case pattern[0] == "*":
		return naive(pattern[1:], s) || len(s) > 0 && naive(pattern, s[1:])
	case len(s) == 0:
		return false
	}
	return (pattern[0] == "?" || pattern[0] == s[0]) && naive(pattern[1:], s[1:])
}

// bound is what matchSteps promises.
func bound(pattern, s string) int {
	longest := 0
	for _, piece := range strings.Split(pattern, "*") {
		longest = max(longest, len(piece)+1) // and the step that finds that it does not match
	}
	return len(pattern) + len(s)*longest
}

// TestSteps holds documents that were written to take long to the promise that a
// decision takes at most the size of document times that of request. A matcher
// that tries all ways to place the stars would not end.
func TestSteps(t *testing.T) {
	const name, least = 300, MaxDocument * 9 / 10
	for what, pattern := range map[string]string{
		"star after star":    strings.Repeat("*", 16000),
		"stars and letters":  strings.Repeat("a*", 8000) + "b",
		"one long piece":     "*" + strings.Repeat("a", name/2) + "b",
		"pieces of two":      strings.Repeat("*aa", 5000) + "b",
		"question marks":     "*" + strings.Repeat("?", name/2) + "b",
		"stars and question": strings.Repeat("*?", 8000) + "b",
	} {
		// As many of it as fit.
		patterns := strings.Repeat(`"`+pattern+`",`, (MaxDocument-100)/(len(pattern)+3))
		document := `{"Version":"1","Statement":[{"Effect":"Allow","Action":"*","Resource":[` + strings.TrimSuffix(patterns, ",") + `]}]}`
		p, err := Parse(document)
		if err != nil || len(document) < least {
			t.Fatalf("%s: %d bytes, %v", what, len(document), err)
		}
		r := Request{Action: "kms:AsymmetricSign", Resource: strings.Repeat("a", name)}
		total := 0
		for _, pattern := range p.statements[0].resources {
			_, steps := matchSteps(pattern, r.Resource)
			total += steps
		}
		if total > MaxDocument*name {
			t.Errorf("%s: %d steps", what, total)
		}
		if want := pattern[len(pattern)-1] != 'b'; Decide([]Named{{"x", p}}, r).Allowed != want {
			t.Errorf("%s: want Allowed %v", what, want)
		}
	}
}
