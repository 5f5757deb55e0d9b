package cli_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
)

// TestServeStatusesDocumented checks that docs/serve.md has the statuses that matter to a
// supervisor, and that the systemd unit does not restart the gateway after a refused PIN.
func TestServeStatusesDocumented(t *testing.T) {
	page, err := os.ReadFile("../../../../docs/serve.md")
	if err != nil {
		t.Fatal(err)
	}
	unit, err := os.ReadFile("../../../../docs/kmsgate.service")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "| status of `kmsgate serve` |")
	table, _, _ = strings.Cut(table, "\n\n")
	var documented []string
	for _, row := range regexp.MustCompile(`(?m)^\| (\w+) \|`).FindAllStringSubmatch(table, -1) {
		documented = append(documented, row[1])
	}
	want := []string{strconv.Itoa(cli.ExitOK), strconv.Itoa(cli.ExitPIN), "other"}
	if !slices.Equal(documented, want) {
		t.Errorf("docs/serve.md documents the exit statuses %q, want %q", documented, want)
	}
	if setting := fmt.Sprintf("\nRestartPreventExitStatus=%d\n", cli.ExitPIN); !strings.Contains(string(unit), setting) {
		t.Errorf("docs/kmsgate.service lacks %q", setting)
	}
}
