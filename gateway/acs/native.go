package acs

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// NativeProtocol is the Protocol of a native request's claim, after the name of the KMS Instance
// SDK's protocol.
const NativeProtocol = "dkms-gcs"

// nativeMethod is the only signature method of the native API: RSASSA-PKCS1-v1_5
// with SHA-256.
const nativeMethod = "RSA_PKCS1_SHA_256"

// The headers of the native API that the gateway uses. Every SDK has the misspelling in nativeId.
const (
	nativePrefix     = "x-kms-"
	nativeId         = "x-kms-acccesskeyid"
	nativeName       = "x-kms-apiname"
	nativeVersion    = "x-kms-apiversion"
	nativeMethodName = "x-kms-signaturemethod"
)

// nativeNameKey is the key of the header nativeName in an http.Header.
var nativeNameKey = http.CanonicalHeaderKey(nativeName)

// NativeKeyVersionHeader is the header with the KeyVersionId in requests and responses of the
// native API.
const NativeKeyVersionHeader = "x-kms-migrationkeyversionid"

// ErrNoClientKey means that a native request names no client key.
var ErrNoClientKey = errors.New("the header " + nativeId + " is missing")

// A ParamError reports the header of a native request that is missing or malformed. Its text is
// exactly that of KMS, because the transfer SDK compares it.
type ParamError struct {
	Param string
	Value string // the unsupported value; empty for other errors
}

func (e *ParamError) Error() string {
	text := fmt.Sprintf("The Param %s is invalid.", e.Param)
	if e.Value != "" {
		text += fmt.Sprintf(" message:%.40q.", e.Value)
	}
	return text
}

// IsNative reports whether a request is for the native API: it has the header with the operation's
// name or the Content-Type of the native API.
func IsNative(h http.Header) bool {
	return len(h[nativeNameKey]) > 0 || strings.HasPrefix(h.Get("Content-Type"), NativeContentType)
}

// NativeContentType is the Content-Type of the native API's messages.
const NativeContentType = "application/x-protobuf"

// ParseNative reads the claim of a request to the native API from its headers. The signature covers
// the body's hash, so verifying it does not need the body. The caller must check the body with
// [Claim.Covers] before trusting anything in it. There is no nonce: two equal requests within one
// second are identical byte by byte. The key version's header, which may be empty, becomes the
// parameter KeyVersionId.
//
// Errors are *ParamError, ErrNoClientKey, and ErrParameters for a query, which no signature covers.
func ParseNative(r *http.Request) (*Claim, error) {
	if r.URL.RawQuery != "" {
		return nil, fmt.Errorf("%w: a request to the native API must not have a query", ErrParameters)
	}
	signed, err := nativeHeaders(r.Header)
	if err != nil {
		return nil, err
	}
	date, err := time.Parse(http.TimeFormat, signed["date"])
	if err != nil || date.Format(http.TimeFormat) != signed["date"] {
		return nil, &ParamError{Param: "Date"}
	}
	if signed[nativeId] == "" {
		return nil, ErrNoClientKey
	}
	if signed[nativeMethodName] != nativeMethod {
		return nil, &ParamError{nativeMethodName, signed[nativeMethodName]}
	}
	signature, err := nativeSignature(signed["authorization"])
	if err != nil {
		return nil, err
	}
	return &Claim{
		Protocol:    NativeProtocol,
		AccessKeyId: signed[nativeId],
		Action:      signed[nativeName],
		Version:     signed[nativeVersion],
		Time:        date,
		bodyHash:    signed["content-sha256"],
		signed:      &signedByKey{r.Method, signed, signature},
	}, nil
}

// signedByKey is a request to the native API.
type signedByKey struct {
	method    string
	headers   map[string]string // as nativeHeaders returns them
	signature []byte
}

func (r *signedByKey) decoded() map[string]string {
	return map[string]string{"KeyVersionId": r.headers[NativeKeyVersionHeader]}
}

func (r *signedByKey) toSign() string { return nativeStringToSign(r.method, r.headers) }

func (r *signedByKey) verify(*Secret) (valid, wrongBody bool) { return false, false }

func (r *signedByKey) verifyKey(public *rsa.PublicKey) bool {
	digest := sha256.Sum256([]byte(r.toSign()))
	return rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], r.signature) == nil
}

// maxNativeHeaders is the greatest number of headers that a native signature covers. SDKs sign fewer
// than 12.
const maxNativeHeaders = 64

// nativeHeaders returns the headers that a native signature covers and the Authorization header, by
// name in lower case. It refuses a header that occurs twice as ambiguous, and more than
// maxNativeHeaders.
func nativeHeaders(h http.Header) (map[string]string, error) {
	signed := make(map[string]string)
	for name, values := range h {
		lower := strings.ToLower(name)
		param, ok := nativeParams[lower]
		if !ok && !strings.HasPrefix(lower, nativePrefix) {
			continue
		}
		if len(values) != 1 || len(signed) >= maxNativeHeaders {
			if param == "" {
				param = lower
			}
			return nil, &ParamError{Param: param}
		}
		signed[lower] = strings.TrimSpace(values[0])
	}
	return signed, nil
}

// nativeParams are the headers used besides those with the prefix, with their names in errors.
var nativeParams = map[string]string{
	"authorization":  "Authorization",
	"content-sha256": "content-sha256",
	"content-type":   "content-type",
	"date":           "Date",
}

func nativeSignature(authorization string) ([]byte, error) {
	text, ok := strings.CutPrefix(authorization, "Bearer ")
	signature, err := base64.StdEncoding.Strict().DecodeString(text)
	if !ok || err != nil || len(signature) == 0 {
		return nil, &ParamError{Param: "Authorization"}
	}
	return signature, nil
}

// nativeStringToSign returns the string to sign, with every header that has the prefix, including
// unknown ones.
func nativeStringToSign(method string, signed map[string]string) string {
	var b strings.Builder
	for _, part := range []string{method, signed["content-sha256"], signed["content-type"], signed["date"]} {
		b.WriteString(part + "\n")
	}
	for _, name := range slices.Sorted(maps.Keys(signed)) {
		if strings.HasPrefix(name, nativePrefix) {
			b.WriteString(name + ":" + signed[name] + "\n")
		}
	}
	b.WriteString("/")
	return b.String()
}
