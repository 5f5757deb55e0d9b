package cli

import (
	"errors"
	"fmt"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// advice says what helps at the command line against a refusal of an operation. The
// gateway's own messages know nothing of commands.
var advice = []struct {
	action string
	err    error
	text   string
}{
	{"DeleteUser", kms.ErrUserInUse, "add --force to delete the user all the same"},
	{"SetUserQuota", kms.ErrInvalidParameter, "kmsgate quota list shows the names of quotas"},
}

// advise adds to a refusal what helps.
func advise(action string, err error) error {
	for _, a := range advice {
		if a.action == action && errors.Is(err, a.err) {
			return fmt.Errorf("%w (%s)", err, a.text)
		}
	}
	return err
}
