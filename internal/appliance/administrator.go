package appliance

import (
	"context"
	"errors"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// fullAccess is the built-in RAM policy that allows everything.
const fullAccess = "AliyunKMSFullAccess"

// CreateAdministrator creates an access key for a user with full access. It also creates the
// user and attaches the policy, unless an earlier, interrupted call has done so.
func (a *Appliance) CreateAdministrator(
	ctx context.Context, userName, comments string,
) (created kms.CreateAccessKeyResponse, err error) {
	if !a.Store.Now().Users().Has(userName) {
		parameters := map[string]string{"UserName": userName, "Comments": comments}
		if err := a.Server.Call(ctx, "CreateUser", parameters, nil); err != nil {
			return created, err
		}
	}
	parameters := map[string]string{"UserName": userName, "PolicyName": fullAccess}
	err = a.Server.Call(ctx, "AttachPolicyToUser", parameters, nil)
	if err != nil && !errors.Is(err, kms.ErrPolicyAttached) {
		return created, err
	}
	err = a.Server.Call(ctx, "CreateAccessKey", map[string]string{"UserName": userName}, &created)
	return created, err
}
