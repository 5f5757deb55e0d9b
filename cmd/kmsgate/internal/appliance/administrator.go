package appliance

import (
	"context"
	"errors"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// fullAccess is the RAM policy that comes with kmsgate and allows everything.
const fullAccess = "AliyunKMSFullAccess"

// CreateAdministrator creates an access key for a user who may do everything. It makes the
// user and attaches the policy unless an earlier call that was cut off has done so.
func (a *Appliance) CreateAdministrator(ctx context.Context, userName, comments string) (made kms.CreateAccessKeyResponse, err error) {
	if !a.Store.Now().Users().Has(userName) {
		if err := a.Server.Call(ctx, "CreateUser", map[string]string{"UserName": userName, "Comments": comments}, nil); err != nil {
			return made, err
		}
	}
	err = a.Server.Call(ctx, "AttachPolicyToUser", map[string]string{"UserName": userName, "PolicyName": fullAccess}, nil)
	if err != nil && !errors.Is(err, kms.ErrPolicyAttached) {
		return made, err
	}
	err = a.Server.Call(ctx, "CreateAccessKey", map[string]string{"UserName": userName}, &made)
	return made, err
}
