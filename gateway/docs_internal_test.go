package gateway

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// TestQuotasDocumented compares the quotas in docs/access.md with those that listeners charge. The
// other quotas of a shared listener are in docs/api.md.
func TestQuotasDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/access.md")
	if err != nil {
		t.Fatal(err)
	}
	business := []kms.Quota{kms.QuotaDedicatedUser, kms.QuotaDedicatedInstance}
	asymmetric := []kms.Quota{kms.QuotaAsymmetric}
	want := "| listener | operations | charged to |\n|---|---|---|\n" +
		fmt.Sprintf("| dedicated | business operations: %s | `%s`, and `%s`, which all users share |\n",
			chargedTo(t, DedicatedGateway, business), business[0], business[1]) +
		"| dedicated | all others | nothing |\n" +
		fmt.Sprintf("| shared | %s | `%s` |\n", chargedTo(t, SharedGateway, asymmetric), asymmetric[0])
	if !strings.Contains(string(page), "\n"+want) {
		t.Errorf("docs/access.md lacks the rows\n%s", want)
	}
}

// chargedTo returns the names of the operations that a listener charges to quotas. It requires that
// a dedicated listener charges all other operations to nothing.
func chargedTo(t *testing.T, gateway string, quotas []kms.Quota) string {
	t.Helper()
	var names []string
	for _, o := range kms.Operations {
		charges := (&Listener{Gateway: gateway}).charges(o)
		switch {
		case !o.Door.IsRemote():
		case slices.Equal(charges, quotas):
			names = append(names, o.Name)
		case gateway == DedicatedGateway && len(charges) > 0:
			t.Errorf("a dedicated listener charges %s to %q, want %q or nothing", o.Name, charges, quotas)
		}
	}
	return strings.Join(names, ", ")
}
