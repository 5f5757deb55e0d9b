package auditlog

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

func TestInert(t *testing.T) {
	for input, want := range map[string]string{
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
		if got := inert(input); got != want {
			t.Errorf("inert(%q) = %q, want %q", input, got, want)
		}
	}
}

// TestNewTable fits a table into terminals of several widths.
func TestNewTable(t *testing.T) {
	line := audit.Line{Entry: &audit.Entry{Time: time.Date(2026, 11, 30, 1, 2, 3, 0, time.UTC), Principal: "a-long-user-name", Action: "AsymmetricSign",
		KeyId: "4c5f0c5e-3f5e-4f5a-9d3e-6a3a4f0e2b11", Code: "Forbidden.NoPermission", Source: "192.0.2.7", RequestId: "7f0f24a3-2f0c-4b7c-9d26-0a2e3f5b1c11"}}
	for width, want := range map[int]string{
		0: "Time                  User            Action                Object                                Code                    Source           RequestId\n" +
			"2026-11-30T01:02:03Z  a-long-user-name  AsymmetricSign        4c5f0c5e-3f5e-4f5a-9d3e-6a3a4f0e2b11  Forbidden.NoPermission  192.0.2.7        7f0f24a3-2f0c-4b7c-9d26-0a2e3f5b1c11\n",
		140: "Time                  User            Action                Object                                Code                    Source\n" +
			"2026-11-30T01:02:03Z  a-long-user-name  AsymmetricSign        4c5f0c5e-3f5e-4f5a-9d3e-6a3a4f0e2b11  Forbidden.NoPermission  192.0.2.7\n",
		80: "Time                  User          Action          Object        Code\n" +
			"2026-11-30T01:02:03Z  a-long-user…  AsymmetricSign  4c5f0c5e-3f…  Forbidden.NoP…\n",
	} {
		var b bytes.Buffer
		w := NewTable(&b, width)
		if err := errors.Join(w.Write(line), w.Flush()); err != nil || b.String() != want {
			t.Errorf("%d columns: got %v\n%swant\n%s", width, err, &b, want)
		}
	}
}
