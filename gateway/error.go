package gateway

import (
	"context"
	"errors"
	"fmt"

	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// An Error is an error of the API: what a client is told. Code is spelled as
// KMS or the gateway in front of it spells it; Status is the HTTP status.
type Error struct {
	Status  int
	Code    string
	Message string
}

func (e *Error) Error() string { return fmt.Sprintf("%d %s: %s", e.Status, e.Code, e.Message) }

// Is makes errors.Is compare codes: errors of one code differ in their message
// only.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && t.Status == e.Status
}

// The errors of the API. Of several that a request deserves it gets the first,
// in the order in which the corridor looks: route, size, parameters, signature,
// action, quota, single parameters, permission, existence, state, fitness.
var (
	errApiNotFound          = define(404, "InvalidApi.NotFound", "Specified api is not found, please check your url and method.")
	errHTTPMethod           = define(403, "UnsupportedHTTPMethod", "This http method is not supported.")
	errNeedSsl              = define(404, "InvalidProtocol.NeedSsl", "Your request is denied as lack of ssl protect.")
	errTooLarge             = define(413, "InvalidParameter", "The request is larger than is allowed.")
	errParseRequest         = define(400, "ParseRequestParameterException", "Server parse parameters exception. Please check your input params.")
	errIncompleteSignature  = define(400, "IncompleteSignature", "The request signature does not conform to Aliyun standards.")
	errSignatureMethod      = define(400, "InvalidSignatureMethod", "Specified signature method is not valid.")
	errSecurityToken        = define(400, "InvalidSecurityToken.Malformed", "Security tokens are not supported: use an AccessKey.")
	errTimeStampFormat      = define(400, "InvalidTimeStamp.Format", "Specified time stamp or date value is not well formatted.")
	errTimeStampExpired     = define(400, "InvalidTimeStamp.Expired", "Specified time stamp or date value is expired.")
	errAccessKeyNotFound    = define(404, "InvalidAccessKeyId.NotFound", "The Access Key ID provided does not exist in our records.")
	errAccessKeyInactive    = define(400, "InvalidAccessKeyId.Inactive", "Specified access key is disabled.")
	errSignatureMismatch    = define(400, "SignatureDoesNotMatch", "Specified signature is not matched with our calculation.")
	errNonceUsed            = define(400, "SignatureNonceUsed", "Specified signature nonce was used already.")
	errUnsupportedOperation = define(400, "UnsupportedOperation", "This action is not supported.")
	errRejectedUnsupported  = define(400, "Rejected.UnsupportedOperation", "Unsupported operation.")
	errThrottling           = define(429, "Rejected.Throttling", "The QPS upper limit is exceeded.")
	errMissingParameter     = define(400, "MissingParameter", "A parameter is needed but not provided.")
	errInvalidParameter     = define(400, "InvalidParameter", "The specified parameter is not valid.")
	errNoPermission         = define(403, "Forbidden.NoPermission", "This operation is forbidden by permission system.")
	errAliasNotFound        = define(404, "Forbidden.AliasNotFound", "The specified Alias is not found.")
	errKeyNotFound          = define(404, "Forbidden.KeyNotFound", "The specified Key is not found.")
	errKeyVersionNotFound   = define(404, "Forbidden.KeyVersionNotFound", "The specified Key version is not found.")
	errResourceNotFound     = define(404, "Forbidden.ResourceNotFound", "The resource is not found.")
	errKeyDisabled          = define(409, "Rejected.Disabled", "The request was rejected because the key state is Disabled.")
	errKeyPendingDeletion   = define(409, "Rejected.PendingDeletion", "The request was rejected because the key state is PendingDeletion.")
	errKeyPendingImport     = define(409, "Rejected.PendingImport", "The request was rejected because the key state is PendingImport.")
	errKeyUnavailable       = define(409, "Rejected.Unavailable", "The request was rejected because the key state is Unavailable.")
	errStateModifiedFailed  = define(409, "Rejected.StateModifiedFailed", "Keystate modified failed.")
	errAliasExists          = define(400, "AliasAlreadyExists", "AliasName Already Exists.")
	errResourceExists       = define(409, "Rejected.ResourceExist", "The resource already exists.") // KMS documents it of CreateSecret, and nothing of access points
	errLimitExceeded        = define(400, "Rejected.LimitExceeded", "The request was rejected because user create resource limit was exceeded.")
	errUnavailable          = define(503, "ServiceUnavailableTemporary", "Service Unavailable Temporary.")
	errInternal             = define(500, "InternalFailure", "Internal Failure.")

	// What a dry run is answered with instead.
	errDryRun         = define(400, "DryRunOperationError", "Request would have succeeded, but the DryRun parameter is set.")
	errDryRunInvalid  = define(400, "ValidationError", "The request would have failed.")
	errDryRunNoAccess = define(403, "AccessDeniedError", "You are not authorized to perform this operation on the KMS resource.")
)

// The errors of administration, spelled as RAM spells them. No client of the API
// sees them.
var (
	errUserNotFound      = defineAdmin(404, "EntityNotExist.User", "The user does not exist.")
	errUserExists        = defineAdmin(409, "EntityAlreadyExists.User", "The user already exists.")
	errAccessKeyMissing  = defineAdmin(404, "EntityNotExist.User.AccessKey", "The access key does not exist.")
	errPolicyNotFound    = defineAdmin(404, "EntityNotExist.Policy", "The policy does not exist.")
	errPolicyExists      = defineAdmin(409, "EntityAlreadyExists.Policy", "The policy already exists.")
	errPolicyAttached    = defineAdmin(409, "EntityAlreadyExists.User.Policy", "The policy is attached to the user already.")
	errPolicyNotAttached = defineAdmin(404, "EntityNotExist.User.Policy", "The policy is not attached to the user.")
	errUserInUse         = defineAdmin(409, "DeleteConflict.User", "The user has access keys or policies.")
	errObjectNotFound    = defineAdmin(404, "EntityNotExist.TokenObject", "The object is not in the token, or not the one that it was.")
	errObjectInUse       = defineAdmin(409, "DeleteConflict.TokenObject", "The object is no stray: it must not be destroyed.")
	errPolicyInUse       = defineAdmin(409, "DeleteConflict.Policy.User", "The policy is attached to a user.")
)

// The errors that the native API has in the place of others, as KMS documents them.
var (
	errNativeName        = defineNative(400, "InvalidApiName", "The ApiName is invalid.")
	errNativeVersion     = defineNative(400, "InvalidApiVersion", "The ApiVersion is invalid.")
	errNativeParam       = defineNative(400, "InvalidParam", "The Param is invalid.")
	errNativeTime        = defineNative(400, "RequestTimeTooSkewed", "Request time exceeds server time more than 15 minutes.")
	errNativeSignature   = defineNative(401, "SignatureNotMatch", "Signature is not matched.")
	errNativeClientKey   = defineNative(404, "Unauthorized", "The AccessKey ID does not exist in our records.")
	errNativeContentType = defineNative(415, "InvalidContentType", "The Content-Type is unsupported.")
)

// nativeError is apiError for the native API, whose SDKs try what is unavailable again
// by themselves: a token that refuses one thing and is well is told as something else.
func nativeError(err error) *Error {
	switch api := apiError(err); {
	case errors.Is(err, hsm.ErrRefused):
		return errKeyUnavailable.saying("The request was rejected because the token refuses it.")
	case errors.Is(api, errAliasNotFound):
		return errKeyNotFound
	case errors.Is(api, errAccessKeyNotFound):
		return errNativeClientKey
	default:
		return api
	}
}

// errAuditLog is what everything is answered with while there can be no audit
// line of it.
var errAuditLog = errUnavailable.because("The audit log cannot be written, and nothing is done without its line.")

// errAuditOwed is what a change is answered with that was made when there could be
// no line of it any more.
var errAuditOwed = errUnavailable.because("The request was carried out, and its audit line follows as soon as the log can be written.")

// defined, definedAdmin and definedNative are every error above, in their order.
// They change only while the package is initialized.
var defined, definedAdmin, definedNative []*Error

func defineNative(status int, code, message string) *Error {
	e := &Error{status, code, message}
	definedNative = append(definedNative, e)
	return e
}

func defineAdmin(status int, code, message string) *Error {
	e := &Error{status, code, message}
	definedAdmin = append(definedAdmin, e)
	return e
}

func define(status int, code, message string) *Error {
	e := &Error{status, code, message}
	defined = append(defined, e)
	return e
}

// Errors lists every error that the API can be answered with, those of
// dry runs last. Messages of answers can go on.
func Errors() []Error { return values(defined) }

// NativeErrors lists every error that only the native API has.
func NativeErrors() []Error { return values(definedNative) }

func values(errs []*Error) (all []Error) {
	for _, e := range errs {
		all = append(all, *e)
	}
	return all
}

// saying gives e with another message.
func (e *Error) saying(format string, args ...any) *Error {
	return &Error{e.Status, e.Code, fmt.Sprintf(format, args...)}
}

// because gives e with a message that goes on.
func (e *Error) because(format string, args ...any) *Error {
	return &Error{e.Status, e.Code, e.Message + " " + fmt.Sprintf(format, args...)}
}

func missingParameter(name string) *Error {
	return errMissingParameter.saying("The parameter %q is needed but not provided.", name)
}

func invalidParameter(name, format string, args ...any) *Error {
	return errInvalidParameter.saying("The specified parameter %q is not valid: %s.", name, fmt.Sprintf(format, args...))
}

// sentinels says which error of the API stands for an error from below. told
// is whether the client is told that error's text: only where it speaks of
// nothing but the client's own request.
var sentinels = []struct {
	below error
	api   *Error
	told  bool
}{
	{acs.ErrParameters, errParseRequest, true},
	{acs.ErrIncomplete, errIncompleteSignature, true},
	{acs.ErrMethod, errSignatureMethod, true},
	{acs.ErrToken, errSecurityToken, false},
	{acs.ErrTimeFormat, errTimeStampFormat, true},
	{hsm.ErrKeySpec, errUnsupportedOperation.because("The KeySpec is not offered by the token."), false},
	{hsm.ErrAlgorithm, invalidParameter("Algorithm", "it does not fit the KeySpec of the key"), false},
	{hsm.ErrDigest, invalidParameter("Digest", "it has to be %d bytes", hsm.DigestSize), false},
	{hsm.ErrNoRandom, errUnsupportedOperation.because("The token makes no random numbers."), false},
	{hsm.ErrNotFound, errKeyUnavailable, false}, // there is a record, or nobody would have asked for it
	{store.ErrExists, errAliasExists, false},
	{hsm.ErrBusy, errUnavailable, false},
	{hsm.ErrUnavailable, errUnavailable, false},
	{context.DeadlineExceeded, errUnavailable, false},
	{context.Canceled, errUnavailable, false},
}

// apiError gives the error that the client is told. What is not named above is
// InternalFailure, without detail.
func apiError(err error) *Error {
	var api *Error
	if errors.As(err, &api) {
		return api
	}
	for _, s := range sentinels {
		if !errors.Is(err, s.below) {
			continue
		}
		if s.told {
			return s.api.because("%s.", clip(err.Error()))
		}
		return s.api
	}
	return errInternal
}

// dryRunError gives the error that a dry run is answered with for what the
// request itself would have been answered with. Who did not prove who it is, is
// over its quota or met a fault of ours is told that and nothing else.
func dryRunError(e *Error) *Error {
	switch {
	case errors.Is(e, errNoPermission):
		return errDryRunNoAccess
	case e.Status >= 500, errors.Is(e, errThrottling), errors.Is(e, errDryRun):
		return e
	}
	return errDryRunInvalid.because("%s: %s", e.Code, e.Message)
}
