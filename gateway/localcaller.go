package gateway

import (
	"unicode/utf8"

	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// A localCaller is a person at a local door: the admin socket or this process. Local
// administrators may do every operation except one: nobody signs by being root alone. The
// person signs under the policies of a user that the person names or, if the person says so, as
// administrator.
type localCaller struct {
	uid      uint32
	loginUid string // the uid that the person logged in with, before sudo; empty if unknown
	request  kms.AdminRequest
}

// principal returns the principal of the request, and fills in the audit line's part of it.
func (l localCaller) principal(c *call) (*identity.Principal, error) {
	root := c.server.callers.Root(l.uid)
	c.entry.Principal, c.entry.LoginUid, c.entry.AsAdministrator = root.Name, l.loginUid, l.request.AsAdministrator
	c.entry.Reference = kms.Clip(l.request.Reference)
	userName := l.request.OnBehalfOf
	switch {
	case !kms.IsText(l.request.Reference) || utf8.RuneCountInString(l.request.Reference) > kms.MaxReference:
		return nil, kms.InvalidParameter("Reference", "it must be at most %d characters without control characters", kms.MaxReference)
	case userName != "" && l.request.AsAdministrator:
		return nil, kms.InvalidParameter("OnBehalfOf", "it excludes AsAdministrator")
	case userName == "" && l.request.Action == signAction && !l.request.AsAdministrator:
		if userName = c.server.config.SigningUser; userName == "" {
			return nil, errNobodySigns
		}
	}
	if userName == "" {
		return root, nil
	}
	c.entry.OnBehalfOf = kms.Clip(userName)
	return c.server.callers.OnBehalf(c.records, l.uid, userName)
}

// signAction is the operation that local administrators may not do without saying how.
const signAction = "AsymmetricSign"

var errNobodySigns = kms.ErrNoPermission.Because(
	"A local signature needs a user, whose policies apply: set OnBehalfOf, or AsAdministrator to sign without policies.")

// lookup returns the call's operation. The local doors offer every operation; on behalf of a user,
// they offer those that the user could ask for.
func (l localCaller) lookup(c *call) (operation, error) {
	if c.action == "" {
		return operation{}, kms.MissingParameter("Action")
	}
	return lookup(c.action, func(o operation) bool { return c.principal.OnBehalfOf == "" || o.Door != kms.Admin })
}

// charges returns no quota or, on behalf of a user, the quotas that a dedicated listener charges.
func (l localCaller) charges(c *call) []kms.Quota {
	if c.principal.OnBehalfOf == "" {
		return nil
	}
	return new(Listener).charges(c.operation.Operation)
}
