package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// advice is what helps against a refusal at the command line. The gateway's own messages
// know nothing of commands.
var advice = []struct {
	action string
	err    error
	about  string // part of the error's message
	text   string
}{
	{"SetUserQuota", kms.ErrInvalidParameter, `"QuotaName"`, "kmsgate quota list shows the names of quotas"},
	{"EnableKey", kms.ErrStateModifiedFailed, "PendingDeletion", "kmsgate key cancel-deletion keeps and enables it"},
	{"DisableKey", kms.ErrStateModifiedFailed, "PendingDeletion", "kmsgate key cancel-deletion keeps and enables it"},
	{"CreateKeyVersion", kms.ErrKeyDisabled, "", "kmsgate key enable lets it sign again"},
	{"CreateNamedKey", kms.ErrAliasExists, "", "to point the alias to a new key, create the key without an alias, then run kmsgate alias update"},
	{"ScheduleKeyDeletion", kms.ErrStateModifiedFailed, "protected", "kmsgate key unprotect allows it"},
}

// advise adds what helps to a refusal.
func advise(action string, err error) error {
	for _, a := range advice {
		if a.action == action && errors.Is(err, a.err) && strings.Contains(err.Error(), a.about) {
			return fmt.Errorf("%w (%s)", err, a.text)
		}
	}
	return err
}
