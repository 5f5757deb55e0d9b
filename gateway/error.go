package gateway

import (
	"context"
	"errors"

	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// nativeError is apiError for the native API, whose SDKs try what is unavailable again
// by themselves: a token that refuses one thing and is well is told as something else.
func nativeError(err error) *kms.Error {
	switch api := apiError(err); {
	case errors.Is(err, hsm.ErrRefused):
		return kms.ErrKeyUnavailable.Saying("The request was rejected because the token refuses it.")
	case errors.Is(api, kms.ErrAliasNotFound):
		return kms.ErrKeyNotFound
	case errors.Is(api, kms.ErrAccessKeyNotFound):
		return kms.ErrNativeClientKey
	default:
		return api
	}
}

// sentinels says which error of the API stands for an error from below. told
// is whether the client is told that error's text: only where it speaks of
// nothing but the client's own request.
var sentinels = []struct {
	below error
	api   *kms.Error
	told  bool
}{
	{acs.ErrParameters, kms.ErrParseRequest, true},
	{acs.ErrIncomplete, kms.ErrIncompleteSignature, true},
	{acs.ErrMethod, kms.ErrSignatureMethod, true},
	{acs.ErrToken, kms.ErrSecurityToken, false},
	{acs.ErrTimeFormat, kms.ErrTimeStampFormat, true},
	{hsm.ErrKeySpec, kms.ErrUnsupportedOperation.Because("The KeySpec is not offered by the token."), false},
	{hsm.ErrAlgorithm, kms.InvalidParameter("Algorithm", "it does not fit the KeySpec of the key"), false},
	{hsm.ErrDigest, kms.InvalidParameter("Digest", "it has to be %d bytes", hsm.DigestSize), false},
	{hsm.ErrNoRandom, kms.ErrUnsupportedOperation.Because("The token makes no random numbers."), false},
	{hsm.ErrNotFound, kms.ErrKeyUnavailable, false}, // there is a record, or nobody would have asked for it
	{store.ErrExists, kms.ErrAliasExists, false},
	{hsm.ErrBusy, kms.ErrUnavailable, false},
	{hsm.ErrUnavailable, kms.ErrUnavailable, false},
	{context.DeadlineExceeded, kms.ErrUnavailable, false},
	{context.Canceled, kms.ErrUnavailable, false},
}

// apiError gives the error that the client is told. What is not named above is
// InternalFailure, without detail.
func apiError(err error) *kms.Error {
	var api *kms.Error
	if errors.As(err, &api) {
		return api
	}
	for _, s := range sentinels {
		if !errors.Is(err, s.below) {
			continue
		}
		if s.told {
			return s.api.Because("%s.", kms.Clip(err.Error()))
		}
		return s.api
	}
	return kms.ErrInternal
}
