package identity_test

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/gateway/identity"
)

// TestSystemPoliciesDocumented checks that docs/access.md has the table of system policies.
func TestSystemPoliciesDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/access.md")
	if err != nil {
		t.Fatal(err)
	}
	want := "| policy | description |\n|---|---|\n"
	for _, name := range slices.Sorted(maps.Keys(identity.SystemPolicies)) {
		want += fmt.Sprintf("| `%s` | %s |\n", name, identity.SystemPolicies[name].Description)
	}
	if !strings.Contains(string(page), "\n"+want+"\n") {
		t.Errorf("docs/access.md lacks the table\n%s", want)
	}
}
