package doctor

import (
	"context"
	"slices"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// examineSigningUser reports a configured signing user that does not exist: no local signature
// would succeed without --user.
func (dr *Doctor) examineSigningUser(ctx context.Context, d *Diagnosis) {
	if dr.config == nil || dr.config.Admin.SigningUser == "" {
		return
	}
	name := dr.config.Admin.SigningUser
	var answer kms.ListUsersResponse
	if err := dr.gateway.Call(ctx, "ListUsers", nil, &answer); err != nil {
		d.problem("run kmsgate doctor again", "The users could not be listed: %v.", err)
		return
	}
	if !slices.ContainsFunc(answer.Users.User, func(u kms.UserItem) bool { return u.UserName == name }) {
		d.problem("create the user with kmsgate user create, or correct admin.signing_user in the configuration",
			"The signing user %q does not exist.", name)
	}
}
