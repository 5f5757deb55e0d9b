package gateway

import (
	"context"
	"errors"

	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// nativeError is like apiError, for the native API. Its SDKs retry by themselves while the
// service is unavailable. If a working token refuses an operation, retrying may not help, so
// nativeError returns another error.
func nativeError(err error) *kms.Error {
	switch apiErr := apiError(err); {
	case errors.Is(err, hsm.ErrRefused):
		return kms.ErrKeyUnavailable.Saying("The request was rejected because the token refuses it.")
	case errors.Is(apiErr, kms.ErrAliasNotFound):
		return kms.ErrKeyNotFound
	case errors.Is(apiErr, kms.ErrAccessKeyNotFound):
		return kms.ErrNativeClientKey
	default:
		return apiErr
	}
}

// localError is like apiError, for local administrators. If a working token refuses an operation,
// waiting does not help: they learn that, and why.
func localError(err error) *kms.Error {
	if errors.Is(err, hsm.ErrRefused) {
		return kms.ErrKeyUnavailable.Because("%s.", kms.ClipTo(kms.MaxReason, err.Error()))
	}
	return apiError(err)
}

// sentinels maps errors of other packages to errors of the API. If detailed is set, the
// client also receives the text of the cause. It is set only where that text describes
// nothing except the client's request.
var sentinels = []struct {
	cause    error
	answer   *kms.Error
	detailed bool
}{
	{acs.ErrParameters, kms.ErrParseRequest, true},
	{acs.ErrIncomplete, kms.ErrIncompleteSignature, true},
	{acs.ErrMethod, kms.ErrSignatureMethod, true},
	{acs.ErrToken, kms.ErrSecurityToken, false},
	{acs.ErrTimeFormat, kms.ErrTimeStampFormat, true},
	{hsm.ErrKeySpec, kms.ErrUnsupportedOperation.Because("The token does not support the KeySpec."), false},
	{hsm.ErrAlgorithm, kms.InvalidParameter("Algorithm", "it does not fit the KeySpec of the key"), false},
	{hsm.ErrDigest, kms.InvalidParameter("Digest", "it must have %d bytes", hsm.DigestSize), false},
	{hsm.ErrNoRandom, kms.ErrUnsupportedOperation.Because("The token does not generate random numbers."), false},
	{hsm.ErrNotFound, kms.ErrKeyUnavailable, false}, // the record exists, only the key pair is missing
	{store.ErrExists, kms.ErrAliasExists, false},
	{store.ErrNonceUsed, kms.ErrNonceUsed, false},
	{store.ErrUnwritable, kms.ErrUnavailable.Because("The records cannot be written at the moment; nothing was changed."), false},
	{store.ErrUncertain, kms.ErrUnavailable.Because("The records cannot be written at the moment; the change may still take place."), false},
	{hsm.ErrBusy, kms.ErrUnavailable, false},
	{hsm.ErrUnavailable, kms.ErrUnavailable, false},
	{context.DeadlineExceeded, kms.ErrUnavailable, false},
	{context.Canceled, kms.ErrUnavailable, false},
}

// apiError returns the error that the client receives for err. An error that is neither a
// *kms.Error nor in sentinels becomes InternalFailure, without detail.
func apiError(err error) *kms.Error {
	var apiErr *kms.Error
	if errors.As(err, &apiErr) {
		return apiErr
	}
	for _, s := range sentinels {
		if !errors.Is(err, s.cause) {
			continue
		}
		if s.detailed {
			return s.answer.Because("%s.", kms.Clip(err.Error()))
		}
		return s.answer
	}
	return kms.ErrInternal
}
