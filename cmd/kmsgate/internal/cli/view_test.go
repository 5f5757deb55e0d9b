package cli

import "testing"

func TestDocument(t *testing.T) {
	for input, want := range map[string]string{
		`{"a":"\u001b\\"}`:   "{\n  \"a\": \"\\u001b\\\\\"\n}\n",
		"{\"a\":\"\u009b\"}": "{\n  \"a\": \"\\u009b\"\n}\n",
		"no JSON\x1b":        "no JSON\\x1b\n",
	} {
		if got := Document(input); got != want {
			t.Errorf("Document(%q) = %q, want %q", input, got, want)
		}
	}
}

// TestWideTables: a table that is wider than the terminal becomes one block a row, and loses
// nothing.
func TestWideTables(t *testing.T) {
	v := View{Value: 1, header: true, Rows: [][]string{{"KeyId", "Aliases", "KeyState"}, {"k-1", "alias/ä, alias/b", "Enabled"}, {"k-2", "", "Disabled"}}}
	const table = "KeyId  Aliases           KeyState\nk-1    alias/ä, alias/b  Enabled\nk-2                      Disabled\n"
	const blocks = "KeyId     k-1\nAliases   alias/ä, alias/b\nKeyState  Enabled\n\nKeyId     k-2\nKeyState  Disabled\n"
	for width, want := range map[int]string{0: table, 33: table, 32: blocks} {
		if got, err := v.encode(OutputTable, width); err != nil || string(got) != want {
			t.Errorf("%d columns: got %q, %v, want %q", width, got, err, want)
		}
	}
}
