package kms

import (
	"errors"
	"fmt"
)

// An Error is an error of the API, as a client sees it. Status is the HTTP status. Code is
// spelled as KMS, RAM or the gateway in front of KMS spells it. Compare with errors.Is.
type Error struct {
	Status  int
	Code    string
	Message string
}

// Error returns status, code and message in one line.
func (e *Error) Error() string { return fmt.Sprintf("%d %s: %s", e.Status, e.Code, e.Message) }

// Is reports whether target is an Error with the same status and code. Messages may differ.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && t.Status == e.Status
}

// The errors of the API. If several apply, the client gets the first in the order of the
// gateway's checks: route, size, parameters, signature, action, quota, single parameters,
// permission, existence, state, fitness.
var (
	ErrApiNotFound          = define(404, "InvalidApi.NotFound", "Specified api is not found, please check your url and method.")
	ErrHTTPMethod           = define(403, "UnsupportedHTTPMethod", "This http method is not supported.")
	ErrNeedSsl              = define(404, "InvalidProtocol.NeedSsl", "Your request is denied as lack of ssl protect.")
	ErrTooLarge             = define(413, "InvalidParameter", "The request is larger than is allowed.")
	ErrParseRequest         = define(400, "ParseRequestParameterException", "Server parse parameters exception. Please check your input params.")
	ErrIncompleteSignature  = define(400, "IncompleteSignature", "The request signature does not conform to Aliyun standards.")
	ErrSignatureMethod      = define(400, "InvalidSignatureMethod", "Specified signature method is not valid.")
	ErrSecurityToken        = define(400, "InvalidSecurityToken.Malformed", "Security tokens are not supported: use an AccessKey.")
	ErrTimeStampFormat      = define(400, "InvalidTimeStamp.Format", "Specified time stamp or date value is not well formatted.")
	ErrTimeStampExpired     = define(400, "InvalidTimeStamp.Expired", "Specified time stamp or date value is expired.")
	ErrAccessKeyNotFound    = define(404, "InvalidAccessKeyId.NotFound", "The Access Key ID provided does not exist in our records.")
	ErrAccessKeyInactive    = define(400, "InvalidAccessKeyId.Inactive", "Specified access key is disabled.")
	ErrSignatureMismatch    = define(400, "SignatureDoesNotMatch", "Specified signature is not matched with our calculation.")
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
	ErrKeyDisabled          = define(409, "Rejected.Disabled", "The request was rejected because the key state is Disabled.")
	ErrKeyPendingDeletion   = define(409, "Rejected.PendingDeletion", "The request was rejected because the key state is PendingDeletion.")
	ErrKeyPendingImport     = define(409, "Rejected.PendingImport", "The request was rejected because the key state is PendingImport.")
	ErrKeyUnavailable       = define(409, "Rejected.Unavailable", "The request was rejected because the key state is Unavailable.")
	ErrStateModifiedFailed  = define(409, "Rejected.StateModifiedFailed", "Keystate modified failed.")
	ErrAliasExists          = define(400, "AliasAlreadyExists", "AliasName Already Exists.")
	ErrResourceExists       = define(409, "Rejected.ResourceExist", "The resource already exists.") // KMS documents it of CreateSecret, and nothing of access points
	ErrLimitExceeded        = define(400, "Rejected.LimitExceeded", "The request was rejected because user create resource limit was exceeded.")
	ErrUnavailable          = define(503, "ServiceUnavailableTemporary", "Service Unavailable Temporary.")
	ErrInternal             = define(500, "InternalFailure", "Internal Failure.")

	// The answers to a dry run.
	ErrDryRun         = define(400, "DryRunOperationError", "Request would have succeeded, but the DryRun parameter is set.")
	errDryRunInvalid  = define(400, "ValidationError", "The request would have failed.")
	errDryRunNoAccess = define(403, "AccessDeniedError", "You are not authorized to perform this operation on the KMS resource.")
)

// The errors of administration, spelled as RAM spells them. Clients of the API never get
// them.
var (
	ErrUserNotFound      = defineAdmin(404, "EntityNotExist.User", "The user does not exist.")
	ErrUserExists        = defineAdmin(409, "EntityAlreadyExists.User", "The user already exists.")
	ErrAccessKeyMissing  = defineAdmin(404, "EntityNotExist.User.AccessKey", "The access key does not exist.")
	ErrPolicyNotFound    = defineAdmin(404, "EntityNotExist.Policy", "The policy does not exist.")
	ErrPolicyExists      = defineAdmin(409, "EntityAlreadyExists.Policy", "The policy already exists.")
	ErrPolicyAttached    = defineAdmin(409, "EntityAlreadyExists.User.Policy", "The policy is attached to the user already.")
	ErrPolicyNotAttached = defineAdmin(404, "EntityNotExist.User.Policy", "The policy is not attached to the user.")
	ErrUserInUse         = defineAdmin(409, "DeleteConflict.User", "The user has access keys or policies.")
	ErrObjectNotFound    = defineAdmin(404, "EntityNotExist.TokenObject", "The object is not in the token, or not the one that it was.")
	ErrObjectInUse       = defineAdmin(409, "DeleteConflict.TokenObject", "The object is no stray: it must not be destroyed.")
	ErrPolicyInUse       = defineAdmin(409, "DeleteConflict.Policy.User", "The policy is attached to a user.")
)

// The errors that the native API has instead of others, as KMS documents them.
var (
	ErrNativeName        = defineNative(400, "InvalidApiName", "The ApiName is invalid.")
	ErrNativeVersion     = defineNative(400, "InvalidApiVersion", "The ApiVersion is invalid.")
	ErrNativeParam       = defineNative(400, "InvalidParam", "The Param is invalid.")
	ErrNativeTime        = defineNative(400, "RequestTimeTooSkewed", "Request time exceeds server time more than 15 minutes.")
	ErrNativeSignature   = defineNative(401, "SignatureNotMatch", "Signature is not matched.")
	ErrNativeClientKey   = defineNative(404, "Unauthorized", "The AccessKey ID does not exist in our records.")
	ErrNativeContentType = defineNative(415, "InvalidContentType", "The Content-Type is unsupported.")
)

// ErrAuditLog is the answer to every request while the audit log cannot be written.
var ErrAuditLog = ErrUnavailable.Because("The audit log cannot be written, and nothing is done without its line.")

// ErrAuditPending is the answer to a change that was carried out, and whose audit line could
// not be written.
var ErrAuditPending = ErrUnavailable.Because("The request was carried out, and its audit line follows as soon as the log can be written.")

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

// Errors returns every error of the API, those of dry runs last. The messages of answers may
// be longer.
func Errors() []Error { return values(defined) }

// AdminErrors returns the errors of administration.
func AdminErrors() []Error { return values(definedAdmin) }

// NativeErrors returns the errors that only the native API has.
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

// Because returns e with more text behind its message.
func (e *Error) Because(format string, args ...any) *Error {
	return &Error{e.Status, e.Code, e.Message + " " + fmt.Sprintf(format, args...)}
}

// MissingParameter returns the error for a required parameter that was not sent.
func MissingParameter(name string) *Error {
	return ErrMissingParameter.Saying("The parameter %q is needed but not provided.", name)
}

// InvalidParameter returns the error for a parameter that is not valid. The format says why.
func InvalidParameter(name, format string, args ...any) *Error {
	return ErrInvalidParameter.Saying("The specified parameter %q is not valid: %s.", name, fmt.Sprintf(format, args...))
}

// DryRunError returns the answer to a dry run whose request would have been answered with e.
// Throttling and faults of the gateway are returned as they are.
func DryRunError(e *Error) *Error {
	switch {
	case errors.Is(e, ErrNoPermission):
		return errDryRunNoAccess
	case e.Status >= 500, errors.Is(e, ErrThrottling), errors.Is(e, ErrDryRun):
		return e
	}
	return errDryRunInvalid.Because("%s: %s", e.Code, e.Message)
}
