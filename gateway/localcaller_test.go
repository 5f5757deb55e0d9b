package gateway_test

import (
	"context"
	"errors"
	"os"
	"strconv"
	"testing"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/front"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
)

// TestLocalSigning signs at both local doors. Root alone does not sign: either a user's policies
// apply, or the request says that it is the administrator's. The audit line names the person, and
// apart from it the user.
func TestLocalSigning(t *testing.T) {
	b := newBench(t)
	b.newUser("signer", document(allow("kms:AsymmetricSign", "*key/"+b.key.KeyId)))
	b.newUser("reader", document(allow("kms:GetPublicKey", "*")))
	client := b.admin()
	doors := map[kms.Door]func(context.Context, kms.AdminRequest, any) error{kms.Local: b.server.Do, kms.Admin: client.Do}
	request := func(action, user string, administrator bool) kms.AdminRequest {
		return kms.AdminRequest{Action: action, Parameters: params(b.signParams()...), OnBehalfOf: user, AsAdministrator: administrator}
	}
	for name, c := range map[string]struct {
		request    kms.AdminRequest
		err        *kms.Error
		onBehalfOf string
	}{
		"for nobody":            {request("AsymmetricSign", "", false), kms.ErrNoPermission, ""},
		"for a signer":          {request("AsymmetricSign", "signer", false), nil, "signer"},
		"for a reader":          {request("AsymmetricSign", "reader", false), kms.ErrNoPermission, "reader"},
		"for a missing user":    {request("AsymmetricSign", "none", false), kms.ErrUserNotFound, "none"},
		"as administrator":      {request("AsymmetricSign", "", true), nil, ""},
		"as both":               {request("AsymmetricSign", "signer", true), kms.ErrInvalidParameter, ""},
		"administration for":    {kms.AdminRequest{Action: "ListUsers", OnBehalfOf: "signer"}, kms.ErrApiNotFound, "signer"},
		"administration":        {kms.AdminRequest{Action: "ListUsers"}, nil, ""},
		"another key operation": {kms.AdminRequest{Action: "DisableKey", Parameters: params("KeyId", b.key.KeyId), OnBehalfOf: "signer"}, kms.ErrNoPermission, "signer"},
	} {
		for door, do := range doors {
			var resp struct{ RequestId string }
			err := do(t.Context(), c.request, &resp)
			if c.err == nil && err != nil || c.err != nil && !errors.Is(err, c.err) {
				t.Errorf("%s at the %s door: got %v, want %v", name, door, err, c.err)
			}
			entries := b.auditLines()
			e := entries[len(entries)-1]
			want := audit.Entry{Principal: "local:" + strconv.Itoa(os.Getuid()), LoginUid: front.LoginUid(os.Getpid()), OnBehalfOf: c.onBehalfOf, AsAdministrator: c.request.AsAdministrator}
			if e.Door != string(door) || e.Principal != want.Principal || e.OnBehalfOf != want.OnBehalfOf || e.LoginUid != want.LoginUid ||
				e.AsAdministrator != want.AsAdministrator {
				t.Errorf("%s at the %s door: got the audit line %+v, want %+v", name, door, e, want)
			}
		}
	}
}

// TestSigningUser: the configuration can name the user for signatures at the local doors.
func TestSigningUser(t *testing.T) {
	b := newBench(t)
	b.newUser("signer", document(allow("kms:AsymmetricSign", "*")))
	b.stop()
	b.start(func(c *gateway.Config) { c.SigningUser = "signer" })
	sign := kms.AdminRequest{Action: "AsymmetricSign", Parameters: params(b.signParams()...)}
	if err := b.server.Do(t.Context(), sign, nil); err != nil {
		t.Error(err)
	}
	entries := b.auditLines()
	if e := entries[len(entries)-1]; e.OnBehalfOf != "signer" {
		t.Errorf("got the audit line %+v, want OnBehalfOf signer", e)
	}
	b.local("DeleteUser", nil, "UserName", "signer", "Force", "true")
	if err := b.server.Do(t.Context(), sign, nil); !errors.Is(err, kms.ErrUserNotFound) {
		t.Errorf("after the user was deleted: got %v, want %v", err, kms.ErrUserNotFound)
	}
}

// TestLocalQuota: the quotas of a user apply at the local doors as well.
func TestLocalQuota(t *testing.T) {
	b := newBench(t)
	b.newUser("signer", document(allow("kms:AsymmetricSign", "*")))
	b.local("SetUserQuota", nil, "UserName", "signer", "QuotaName", "dedicated", "QueriesPerSecond", "1")
	sign := kms.AdminRequest{Action: "AsymmetricSign", Parameters: params(b.signParams()...), OnBehalfOf: "signer"}
	var err error
	for range 3 { // the clock stands still, and a bucket holds a few
		err = errors.Join(err, b.server.Do(t.Context(), sign, nil))
	}
	if !errors.Is(err, kms.ErrThrottling) {
		t.Errorf("three signatures at once with 1 a second: got %v, want %v", err, kms.ErrThrottling)
	}
	for range 3 {
		b.local("AsymmetricSign", nil, b.signParams()...) // as administrator
	}
}

// TestTokenRefuses tells local administrators apart a token that refuses an operation, where waiting does
// not help, and one that is away.
func TestTokenRefuses(t *testing.T) {
	b := newBench(t)
	sign := kms.AdminRequest{Action: "AsymmetricSign", Parameters: params(b.signParams()...), AsAdministrator: true}
	doors := map[kms.Door]func(context.Context, kms.AdminRequest, any) error{kms.Local: b.server.Do, kms.Admin: b.admin().Do}
	for failure, want := range map[error]*kms.Error{hsm.ErrRefused: kms.ErrKeyUnavailable, hsm.ErrUnavailable: kms.ErrUnavailable, hsm.ErrBusy: kms.ErrUnavailable} {
		b.backend.Fail(failure)
		for door, do := range doors {
			if err := do(t.Context(), sign, nil); !errors.Is(err, want) {
				t.Errorf("%v at the %s door: got %v, want %v", failure, door, err, want)
			}
		}
	}
}
