package kms

import (
	"errors"
	"fmt"
)

// An Error is an error of the API, as a client sees it. Status is the HTTP status. Code is spelled
// as KMS, RAM or the API gateway in front of KMS spells it. Compare with errors.Is.
type Error struct {
	Status  int
	Code    string
	Message string
}

// Error returns the status, code and message on one line.
func (e *Error) Error() string { return fmt.Sprintf("%d %s: %s", e.Status, e.Code, e.Message) }

// Is reports whether target is an Error with the same status and code. The messages may differ.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && t.Status == e.Status
}

// The errors of the API. If several apply, the client gets the first in the order of the gateway's
// checks: route, size, access key, parameters, signature, quota, action, single parameters,
// permission, existence, state, and whether algorithm and digest fit the key.
var (
	ErrApiNotFound = define(404, "InvalidApi.NotFound",
		"Specified api is not found, please check your url and method.")
	ErrHTTPMethod   = define(403, "UnsupportedHTTPMethod", "This http method is not supported.")
	ErrNeedSsl      = define(404, "InvalidProtocol.NeedSsl", "Your request is denied as lack of ssl protect.")
	ErrTooLarge     = define(413, "InvalidParameter", "The request is too large.")
	ErrParseRequest = define(400, "ParseRequestParameterException",
		"Server parse parameters exception. Please check your input params.")
	ErrIncompleteSignature = define(400, "IncompleteSignature",
		"The request signature does not conform to Aliyun standards.")
	ErrSignatureMethod = define(400, "InvalidSignatureMethod", "Specified signature method is not valid.")
	ErrSecurityToken   = define(400, "InvalidSecurityToken.Malformed",
		"Security tokens are not supported. Use an AccessKey.")
	ErrTimeStampFormat = define(400, "InvalidTimeStamp.Format",
		"Specified time stamp or date value is not well formatted.")
	ErrTimeStampExpired  = define(400, "InvalidTimeStamp.Expired", "Specified time stamp or date value is expired.")
	ErrAccessKeyNotFound = define(404, "InvalidAccessKeyId.NotFound",
		"The Access Key ID provided does not exist in our records.")
	ErrAccessKeyInactive = define(400, "InvalidAccessKeyId.Inactive", "Specified access key is disabled.")
	ErrSignatureMismatch = define(400, "SignatureDoesNotMatch",
		"Specified signature is not matched with our calculation.")
	ErrNonceUsed            = define(400, "SignatureNonceUsed", "Specified signature nonce was used already.")
	ErrUnsupportedOperation = define(400, "UnsupportedOperation", "This action is not supported.")
	ErrRejectedUnsupported  = define(400, "Rejected.UnsupportedOperation", "Unsupported operation.")
	ErrThrottling           = define(429, "Rejected.Throttling", "The QPS upper limit is exceeded.")
	ErrMissingParameter     = define(400, "MissingParameter", "A parameter is needed but not provided.")
	ErrInvalidParameter     = define(400, "InvalidParameter", "The specified parameter is not valid.")
	ErrNoPermission         = define(403, "Forbidden.NoPermission", "This operation is forbidden by permission system.")
	ErrAliasNotFound        = define(404, "Forbidden.AliasNotFound", "The specified Alias is not found.")
	ErrKeyNotFound          = define(404, "Forbidden.KeyNotFound", "The specified Key is not found.")
	ErrKeyVersionNotFound   = define(404, "Forbidden.KeyVersionNotFound", "The specified Key version is not found.")
	ErrResourceNotFound     = define(404, "Forbidden.ResourceNotFound", "The resource is not found.")
	ErrKeyDisabled          = define(409, "Rejected.Disabled",
		"The request was rejected because the key state is Disabled.")
	ErrKeyPendingDeletion = define(409, "Rejected.PendingDeletion",
		"The request was rejected because the key state is PendingDeletion.")
	ErrKeyPendingImport = define(409, "Rejected.PendingImport",
		"The request was rejected because the key state is PendingImport.")
	ErrKeyUnavailable = define(409, "Rejected.Unavailable",
		"The request was rejected because the key state is Unavailable.")
	ErrStateModifiedFailed = define(409, "Rejected.StateModifiedFailed", "Keystate modified failed.")
	ErrAliasExists         = define(400, "AliasAlreadyExists", "AliasName Already Exists.")
	// KMS documents this error for CreateSecret and documents none for access points.
	ErrResourceExists = define(409, "Rejected.ResourceExist", "The resource already exists.")
	ErrLimitExceeded  = define(400, "Rejected.LimitExceeded",
		"The request was rejected because user create resource limit was exceeded.")
	ErrUnavailable = define(503, "ServiceUnavailableTemporary", "Service Unavailable Temporary.")
	ErrInternal    = define(500, "InternalFailure", "Internal Failure.")

	// The answers to a dry run.
	ErrDryRun = define(400, "DryRunOperationError",
		"Request would have succeeded, but the DryRun parameter is set.")
	errDryRunInvalid  = define(400, "ValidationError", "The request would have failed.")
	errDryRunNoAccess = define(403, "AccessDeniedError",
		"You are not authorized to perform this operation on the KMS resource.")
)

// The errors of administration, spelled as RAM spells them. Clients of the RPC API and the native
// API never get them.
var (
	ErrUserNotFound     = defineAdmin(404, "EntityNotExist.User", "The user does not exist.")
	ErrUserExists       = defineAdmin(409, "EntityAlreadyExists.User", "The user already exists.")
	ErrAccessKeyMissing = defineAdmin(404, "EntityNotExist.User.AccessKey", "The access key does not exist.")
	ErrPolicyNotFound   = defineAdmin(404, "EntityNotExist.Policy", "The policy does not exist.")
	ErrPolicyExists     = defineAdmin(409, "EntityAlreadyExists.Policy", "The policy already exists.")
	ErrPolicyAttached   = defineAdmin(409, "EntityAlreadyExists.User.Policy",
		"The policy is already attached to the user.")
	ErrPolicyNotAttached = defineAdmin(404, "EntityNotExist.User.Policy", "The policy is not attached to the user.")
	ErrUserInUse         = defineAdmin(409, "DeleteConflict.User", "The user has access keys or policies.")
	ErrObjectNotFound    = defineAdmin(404, "EntityNotExist.TokenObject",
		"The object is not in the token, or it has changed.")
	ErrObjectInUse = defineAdmin(409, "DeleteConflict.TokenObject",
		"The object is not a stray and must not be destroyed.")
	ErrPolicyInUse = defineAdmin(409, "DeleteConflict.Policy.User", "The policy is attached to a user.")
)

// The errors of the native API where it differs from the RPC API, as KMS documents them.
var (
	ErrNativeName    = defineNative(400, "InvalidApiName", "The ApiName is invalid.")
	ErrNativeVersion = defineNative(400, "InvalidApiVersion", "The ApiVersion is invalid.")
	ErrNativeParam   = defineNative(400, "InvalidParam", "The Param is invalid.")
	ErrNativeTime    = defineNative(400, "RequestTimeTooSkewed",
		"Request time exceeds server time more than 15 minutes.")
	ErrNativeSignature   = defineNative(401, "SignatureNotMatch", "Signature is not matched.")
	ErrNativeClientKey   = defineNative(404, "Unauthorized", "The AccessKey ID does not exist in our records.")
	ErrNativeContentType = defineNative(415, "InvalidContentType", "The Content-Type is unsupported.")
)

// ErrAuditLog is the answer to every request while the gateway cannot write the audit log.
var ErrAuditLog = ErrUnavailable.Because("The gateway cannot write the audit log, and does nothing without it.")

// ErrTooManyNonces is the answer to a request whose nonce cannot be remembered.
var ErrTooManyNonces = ErrThrottling.Because(
	"The gateway's memory for nonces is full, and it accepts no further request of this access key for now. Send fewer requests.")

// ErrAuditPending is the answer to a change that the gateway carried out but whose audit line it
// could not write.
var ErrAuditPending = ErrUnavailable.Because("The request was carried out. " +
	"The gateway writes its audit line as soon as it can write the audit log.")

// defined, definedAdmin and definedNative hold every error above, in that order. They change only
// while the package is initialized.
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

// Errors returns every error of the API, with those of dry runs last. The messages of answers may
// be longer.
func Errors() []Error { return values(defined) }

// AdminErrors returns the errors of administration.
func AdminErrors() []Error { return values(definedAdmin) }

// NativeErrors returns the errors that only clients of the native API get.
func NativeErrors() []Error { return values(definedNative) }

func values(errs []*Error) (all []Error) {
	for _, e := range errs {
		all = append(all, *e)
	}
	return all
}

// Saying returns e with another message.
func (e *Error) Saying(format string, args ...any) *Error {
	return &Error{e.Status, e.Code, fmt.Sprintf(format, args...)}
}

// Because returns e with a space and more text appended to its message.
func (e *Error) Because(format string, args ...any) *Error {
	return &Error{e.Status, e.Code, e.Message + " " + fmt.Sprintf(format, args...)}
}

// MissingParameter returns the error for a required parameter that is missing.
func MissingParameter(name string) *Error {
	return ErrMissingParameter.Saying("The parameter %q is needed but not provided.", name)
}

// InvalidParameter returns the error for an invalid parameter. The format and args are the reason.
func InvalidParameter(name, format string, args ...any) *Error {
	reason := fmt.Sprintf(format, args...)
	return ErrInvalidParameter.Saying("The specified parameter %q is not valid: %s.", name, reason)
}

// DryRunError returns the answer to a dry run of a request that would have failed with e. It
// returns throttling and faults of the gateway unchanged.
func DryRunError(e *Error) *Error {
	switch {
	case errors.Is(e, ErrNoPermission):
		return errDryRunNoAccess
	case e.Status >= 500, errors.Is(e, ErrThrottling), errors.Is(e, ErrDryRun):
		return e
	}
	return errDryRunInvalid.Because("%s: %s", e.Code, e.Message)
}
