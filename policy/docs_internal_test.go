package policy

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestConditionsDocumented compares the condition operators and keys in docs/access.md with
// those that the package knows.
func TestConditionsDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/access.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(page), "### Conditions\n")
	section, _, ended := strings.Cut(section, "\n### ")
	if !found || !ended {
		t.Fatal("docs/access.md has no section Conditions")
	}
	var documented []string
	for line := range strings.Lines(section) {
		cell, _, _ := strings.Cut(strings.TrimPrefix(line, "|"), "|")
		if strings.HasPrefix(line, "|") {
			for _, span := range regexp.MustCompile("`[^`]+`").FindAllString(cell, -1) {
				documented = append(documented, strings.Trim(span, "`"))
			}
		}
	}
	slices.Sort(documented)
	known := []string{tagKey + "<tag-key>"}
	known = slices.AppendSeq(known, maps.Keys(operators))
	known = slices.AppendSeq(known, maps.Keys(conditionKeys))
	slices.Sort(known)
	if diff := cmp.Diff(known, documented); diff != "" {
		t.Errorf("docs/access.md differs from the conditions that are known (-known +documented):\n%s", diff)
	}
}
