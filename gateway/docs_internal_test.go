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
	other, asymmetric := []kms.Quota{kms.QuotaDedicatedOther}, []kms.Quota{kms.QuotaAsymmetric}
	want := "| listener | operations | charged to |\n|---|---|---|\n" +
		fmt.Sprintf("| dedicated | business operations: %s | `%s`, and `%s`, which all users share |\n",
			chargedTo(t, DedicatedGateway, business), business[0], business[1]) +
		fmt.Sprintf("| dedicated | all others, also those that do not exist | `%s` |\n", other[0]) +
		fmt.Sprintf("| shared | %s | `%s` |\n", chargedTo(t, SharedGateway, asymmetric), asymmetric[0])
	if !strings.Contains(string(page), "\n"+want) {
		t.Errorf("docs/access.md lacks the rows\n%s", want)
	}
}

// chargedTo returns the names of the operations that a listener charges to quotas. It requires that
// a dedicated listener charges all other operations to QuotaDedicatedOther.
func chargedTo(t *testing.T, gateway string, quotas []kms.Quota) string {
	t.Helper()
	var names []string
	for _, o := range kms.Operations {
		charges := (&Listener{Gateway: gateway}).charges(o)
		switch {
		case !o.Door.IsRemote():
		case slices.Equal(charges, quotas):
			names = append(names, o.Name)
		case gateway == DedicatedGateway && !slices.Equal(charges, []kms.Quota{kms.QuotaDedicatedOther}):
			t.Errorf("a dedicated listener charges %s to %q, want %q or %q", o.Name, charges, quotas, kms.QuotaDedicatedOther)
		}
	}
	return strings.Join(names, ", ")
}
