package gateway_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/gateway/nativepb"
	"github.com/kmsgate/kmsgate/hsm"
)

// TestNativeErrors provokes every error that only the native API has, and errors that it shares
// with the RPC API.
func TestNativeErrors(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	disabled, pending := b.newPair(hsm.EC_P256), b.newPair(hsm.EC_P256)
	b.local("DisableKey", nil, "KeyId", disabled.KeyId)
	b.local("ScheduleKeyDeletion", nil, "KeyId", pending.KeyId, "PendingWindowInDays", "7")
	b.newAccessPoint("narrow", []string{"key/" + disabled.KeyId})
	narrow := b.newNativeClient("narrow")
	digest := bytes.Repeat([]byte{7}, 32)
	sign := func(keyId string) *nativepb.SignRequest {
		return &nativepb.SignRequest{KeyId: keyId, Message: digest, MessageType: "DIGEST"}
	}
	seen := make(map[string]bool)
	want := func(a answer, status int, code, message string) {
		t.Helper()
		seen[code] = true
		if b.want(a, status, code); !strings.HasPrefix(a.Message, message) {
			t.Errorf("%s: message %q, want it to begin with %q", code, a.Message, message)
		}
	}
	bad := func(name, value string) answer {
		return c.do("Sign", sign(b.key.KeyId), nil, withHeader(name, value))
	}
	want(bad("Content-Type", "application/json"), 415, "InvalidContentType",
		`Content-Type "application/json" is unsupported.`)
	want(bad("Date", "yesterday"), 400, "InvalidParam", "The Param Date is invalid.")
	want(bad("X-Kms-Signaturemethod", ""), 400, "InvalidParam", "The Param x-kms-signaturemethod is invalid.")
	want(bad("X-Kms-Signaturemethod", "HMAC"), 400, "InvalidParam",
		`The Param x-kms-signaturemethod is invalid. message:"HMAC".`)
	want(bad("X-Kms-Acccesskeyid", ""), 400, "MissingParameter",
		"Parameter x-kms-acccesskeyid does not exist in http header or body.")
	want(bad("X-Kms-Acccesskeyid", "KAAP.1"), 404, "Unauthorized",
		`The AccessKey ID "KAAP.1" does not exist in our records.`)
	want(bad("X-Kms-Apiversion", "dkms-gcs-0.1"), 400, "InvalidApiVersion",
		`The ApiVersion "dkms-gcs-0.1" is invalid.`)
	want(bad("X-Kms-Apiname", ""), 400, "InvalidApiName", `The ApiName "" is invalid.`)
	want(bad("X-Kms-Apiname", "../Sign"), 400, "InvalidApiName", `The ApiName "../Sign" is invalid.`)
	for _, name := range []string{
		"Encrypt", "Decrypt", "GenerateDataKey", "GetSecretValue",
		"AdvanceEncrypt", "AdvanceDecrypt", "AdvanceGenerateDataKey",
		"GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext",
		"AdvanceGenerateDataKeyPair", "AdvanceGenerateDataKeyPairWithoutPlaintext",
		"Hmac", "AsymmetricSign", "CreateKey", "CreateUser", "CreateBackup", "sign",
	} {
		want(bad("X-Kms-Apiname", name), 400, "UnsupportedOperation", "This action is not supported.")
	}
	for _, skew := range []time.Duration{-15*time.Minute - time.Second, 15*time.Minute + time.Second} {
		want(bad("Date", b.clock.Now().Add(skew).Format(http.TimeFormat)), 400, "RequestTimeTooSkewed",
			"Request time exceeds server time more than 15 minutes.")
	}
	r := c.request("Sign", nil)
	r.Header.Set("Authorization", "Bearer "+base64.StdEncoding.EncodeToString(make([]byte, 256)))
	want(b.nativeRoundTrip(b.http.Client(), r, nil), 401, "SignatureNotMatch", "Signature is not matched.")
	r = c.request("Sign", nil)
	r.Header.Del("Authorization")
	want(b.nativeRoundTrip(b.http.Client(), r, nil), 400, "InvalidParam", "The Param Authorization is invalid.")
	want(bad("Content-Sha256", strings.Repeat("0", 64)), 401, "SignatureNotMatch",
		"Signature is not matched. The signed content-sha256")
	want(bad("Content-Sha256", ""), 401, "SignatureNotMatch", "Signature is not matched. The signed content-sha256")
	r = c.request("Sign", nil)
	r.Method = http.MethodGet
	want(b.nativeRoundTrip(b.http.Client(), r, nil), 403, "UnsupportedHTTPMethod", "")
	r = c.request("Sign", nil)
	r.URL.Path = "/x"
	want(b.nativeRoundTrip(b.http.Client(), r, nil), 404, "InvalidApi.NotFound", "")
	r = c.request("Sign", nil)
	r.URL.RawQuery = "Action=CreateKey"
	want(b.nativeRoundTrip(b.http.Client(), r, nil), 400, "InvalidParameter", "")

	for _, m := range []*nativepb.SignRequest{
		{Message: digest, MessageType: "DIGEST"}, // no KeyId
		{KeyId: b.key.KeyId, MessageType: "DIGEST"},
		{KeyId: b.key.KeyId},
	} {
		want(c.do("Sign", m, nil), 400, "MissingParameter", "")
	}
	for _, m := range []*nativepb.SignRequest{
		{KeyId: b.key.KeyId, Message: digest, MessageType: "raw"},
		{KeyId: b.key.KeyId, Message: digest[:31], MessageType: "DIGEST"},
		{KeyId: b.key.KeyId, Message: append([]byte{1}, digest...), MessageType: "DIGEST"},
		{KeyId: b.key.KeyId, Digest: digest[:31]},
		{KeyId: b.key.KeyId, Digest: digest, Message: digest},
		{KeyId: b.key.KeyId, Digest: digest, MessageType: "RAW"},
		{KeyId: b.key.KeyId, Message: digest, MessageType: "DIGEST", Algorithm: "RSA_PSS_SHA_256"},
		{KeyId: b.key.KeyId, Message: digest, MessageType: "RAW", Algorithm: "SM2DSA"},
		{KeyId: b.key.KeyId, Message: digest, MessageType: "RAW", Algorithm: "none"},
		{KeyId: strings.Repeat("k", 3000), Message: digest, MessageType: "RAW"},
	} {
		want(c.do("Sign", m, nil), 400, "InvalidParameter", "The specified parameter")
	}
	want(c.do("Verify", &nativepb.VerifyRequest{KeyId: b.key.KeyId, Message: digest}, nil),
		400, "MissingParameter", `The parameter "Signature"`)
	want(c.do("GetPublicKey", &nativepb.GetPublicKeyRequest{}, nil), 400, "MissingParameter", `The parameter "KeyId"`)
	for _, body := range [][]byte{{0x0a, 0xff}, {0x0a, 1, 0xff}} { // truncated, and not UTF-8
		want(b.nativeRoundTrip(b.http.Client(), c.request("Sign", body), nil), 400, "InvalidParameter", "")
	}

	want(c.do("Sign", sign("no-such-key"), nil), 404, "Forbidden.KeyNotFound", "")
	want(c.do("Sign", sign("alias/none"), nil), 404, "Forbidden.KeyNotFound", "")
	want(narrow.do("Sign", sign(b.key.KeyId), nil), 403, "Forbidden.NoPermission", "")
	want(narrow.do("Sign", sign("alias/none"), nil), 403, "Forbidden.NoPermission", "")
	want(narrow.do("Sign", sign(disabled.KeyId), nil), 409, "Rejected.Disabled", "")
	want(c.do("Sign", sign(pending.KeyId), nil), 409, "Rejected.PendingDeletion", "")
	want(c.do("Sign", sign(b.key.KeyId), nil, withVersion("none")), 404, "Forbidden.KeyVersionNotFound", "")
	for _, err := range []error{hsm.ErrBusy, hsm.ErrUnavailable} {
		b.backend.Fail(err)
		want(c.do("Sign", sign(b.key.KeyId), nil), 503, "ServiceUnavailableTemporary", "")
	}
	b.backend.Fail(errors.New("the secret of the token"))
	want(c.do("Sign", sign(b.key.KeyId), nil), 500, "InternalFailure", "Internal Failure.")
	// These errors do not pass, so clients must not try again.
	for _, err := range []error{hsm.ErrNotFound, hsm.ErrRefused} {
		b.backend.Fail(err)
		want(c.do("Sign", sign(b.key.KeyId), nil), 409, "Rejected.Unavailable", "")
	}
	b.backend.Fail(hsm.ErrRefused)
	want(c.do("GenerateRandom", &nativepb.GenerateRandomRequest{Length: 1}, nil), 409, "Rejected.Unavailable", "")
	for _, e := range kms.NativeErrors() {
		if !seen[e.Code] {
			t.Errorf("the test does not provoke %s", e.Code)
		}
	}
}
