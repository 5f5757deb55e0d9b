package cli

import (
	"errors"
	"fmt"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// advice is what helps against a refusal at the command line. The gateway's own messages
// know nothing of commands.
var advice = []struct {
	action string
	err    error
	text   string
}{
	{"SetUserQuota", kms.ErrInvalidParameter, "kmsgate quota list shows the names of quotas"},
}

// advise adds what helps to a refusal.
func advise(action string, err error) error {
	for _, a := range advice {
		if a.action == action && errors.Is(err, a.err) {
			return fmt.Errorf("%w (%s)", err, a.text)
		}
	}
	return err
}
