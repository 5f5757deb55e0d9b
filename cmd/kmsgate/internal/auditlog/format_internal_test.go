package auditlog

import "testing"

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
			t.Errorf("inert(%q) = %q, want %q", in, got, want)
		}
	}
}
