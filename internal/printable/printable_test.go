package printable_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/internal/printable"
)

func TestText(t *testing.T) {
	for input, want := range map[string]string{
		"":                       "",
		"alias/中文 é 🔑":           "alias/中文 é 🔑",
		`say "hi"`:               `say "hi"`,
		"\x1b[2J":                `\x1b[2J`,
		"a\nb\tc\rd":             `a\nb\tc\rd`,
		"\u009b2J":               `\u009b2J`, // one character with the effect of \x1b[
		"\x9b2J":                 `\x9b2J`,
		"a\u202eb":               `a\u202eb`, // turns the writing direction
		"a\u2066b\u2028c":        `a\u2066b\u2028c`,
		"a\u00a0b\u3000c":        `a\u00a0b\u3000c`,
		`\x1b`:                   `\\x1b`, // differs from the escape of the character
		`\"`:                     `\\"`,
		"\u007f\u200b\U000e0041": `\u007f\u200b\U000e0041`,
	} {
		if got := printable.Text(input); got != want && got != strings.ReplaceAll(want, `\u007f`, `\x7f`) {
			t.Errorf("Text(%q) = %q, want %q", input, got, want)
		}
	}
}

// TestJSON tests that the result is printable and decodes to the same value.
func TestJSON(t *testing.T) {
	for _, s := range []string{"a", "\u009b2J", "\u007f", "a\u202eb", "\U000e0041", "中🔑", `\u009b`, "\n\t\x00"} {
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		got := string(printable.JSON(text))
		var back string
		if err := json.Unmarshal([]byte(got), &back); err != nil || back != s {
			t.Errorf("JSON(%s) = %s, which decodes to %q, %v, want %q", text, got, back, err, s)
		}
		if printable.Text(strings.ReplaceAll(got, `\`, "")) != strings.ReplaceAll(got, `\`, "") {
			t.Errorf("JSON(%s) = %q, want only printable characters", text, got)
		}
	}
}

func TestLines(t *testing.T) {
	for input, want := range map[string]string{
		"": "", "a": "a\n", "a\n": "a\n", "a\n\nb": "a\n\nb\n", "\x1b[2J\nb\r\n": "\\x1b[2J\nb\\r\n",
	} {
		if got := printable.Lines(input); got != want {
			t.Errorf("Lines(%q) = %q, want %q", input, got, want)
		}
	}
}

func TestShell(t *testing.T) {
	for input, want := range map[string]string{
		"127.0.0.1:8443":      "127.0.0.1:8443",
		"[::1]:8443":          "[::1]:8443",
		"":                    "''",
		"a b":                 "'a b'",
		"$(reboot)":           "'$(reboot)'",
		"it's":                `'it'\''s'`,
		"`x`;y":               "'`x`;y'",
		"/tmp/dir with/中.pem": "'/tmp/dir with/中.pem'",
	} {
		if got := printable.Shell(input); got != want {
			t.Errorf("Shell(%q) = %q, want %q", input, got, want)
		}
		if value, rest, ok := printable.CutShell(want + " 'rest"); value != input || rest != " 'rest" || !ok {
			t.Errorf("CutShell(%q and a rest) = %q, %q, %v, want %q and the rest", want, value, rest, ok, input)
		}
	}
	for _, text := range []string{"", " a", "'a", `'a'\''`, "$a"} {
		if value, rest, ok := printable.CutShell(text); ok {
			t.Errorf("CutShell(%q) = %q, %q, true, want false", text, value, rest)
		}
	}
}
