package policy

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzMatch compares match with a naive implementation of the definition.
func FuzzMatch(f *testing.F) {
	for _, seed := range [][2]string{
		{"kms:*", "kms:AsymmetricSign"}, {"a*b?c*", "aXbYcb?c"}, {"***?", "x"}, {"", ""}, {"*??", "世"},
		{"*??c*", "世cd"}, {"?*世", "世界世"}, {"*?", "世\xe4a"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern) > 12 || len(s) > 12 || !utf8.ValidString(pattern) {
			return // naive takes exponential time, and Parse accepts only UTF-8
		}
		got, steps := matchSteps(pattern, s)
		if want := naive(strings.Split(pattern, ""), strings.Split(s, "")); got != want {
			t.Errorf("match(%q, %q): got %v, want %v", pattern, s, got, want)
		}
		if steps > bound(pattern, s) {
			t.Errorf("match(%q, %q): got %d steps, want at most %d", pattern, s, steps, bound(pattern, s))
		}
	})
}

// naive reports whether s matches pattern, both given as lists of characters.
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

// bound returns the maximum number of steps that matchSteps guarantees.
func bound(pattern, s string) int {
	longest := 0
	for _, piece := range strings.Split(pattern, "*") {
		longest = max(longest, len(piece)+1) // plus the step that detects the mismatch
	}
	return len(pattern) + len(s)*longest
}

// TestSteps checks the guarantee that a decision takes at most as many steps as the product of the
// sizes of document and request. Its documents are hard to match: trying every placement of the
// stars would never finish.
func TestSteps(t *testing.T) {
	const resourceSize, minDocument = 300, MaxDocument * 9 / 10
	for name, pattern := range map[string]string{
		"only stars":               strings.Repeat("*", 16000),
		"stars and letters":        strings.Repeat("a*", 8000) + "b",
		"one long piece":           "*" + strings.Repeat("a", resourceSize/2) + "b",
		"pieces of two":            strings.Repeat("*aa", 5000) + "b",
		"question marks":           "*" + strings.Repeat("?", resourceSize/2) + "b",
		"stars and question marks": strings.Repeat("*?", 8000) + "b",
	} {
		// Repeat the pattern as often as it fits.
		patterns := strings.Repeat(`"`+pattern+`",`, (MaxDocument-100)/(len(pattern)+3))
		document := `{"Version":"1","Statement":[{"Effect":"Allow","Action":"*","Resource":[` +
			strings.TrimSuffix(patterns, ",") + `]}]}`
		p, err := Parse(document)
		if err != nil || len(document) < minDocument {
			t.Fatalf("%s: got %d bytes, %v, want at least %d bytes", name, len(document), err, minDocument)
		}
		r := Request{Action: "kms:AsymmetricSign", Resource: strings.Repeat("a", resourceSize)}
		total := 0
		for _, pattern := range p.statements[0].resources {
			_, steps := matchSteps(pattern, r.Resource)
			total += steps
		}
		if total > MaxDocument*resourceSize {
			t.Errorf("%s: got %d steps, want at most %d", name, total, MaxDocument*resourceSize)
		}
		if want := pattern[len(pattern)-1] != 'b'; Decide([]Named{{"x", p}}, r).Allowed != want {
			t.Errorf("%s: got Allowed %v, want %v", name, !want, want)
		}
	}
}
