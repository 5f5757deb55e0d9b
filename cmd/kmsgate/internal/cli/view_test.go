package cli

import "testing"

func TestDocument(t *testing.T) {
	for in, want := range map[string]string{
		`{"a":"\u001b\\"}`:   "{\n  \"a\": \"\\u001b\\\\\"\n}\n",
		"{\"a\":\"\u009b\"}": "{\n  \"a\": \"\\u009b\"\n}\n",
		"no JSON\x1b":        "no JSON\\x1b\n",
	} {
		if got := Document(in); got != want {
			t.Errorf("Document(%q) = %q, want %q", in, got, want)
		}
	}
}
