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

// NativeProtocol is what a native request's claim has for Protocol: the name that
// the KMS Instance SDK goes by.
const NativeProtocol = "dkms-gcs"

// nativeMethod is the only signature method of the native API: RSASSA-PKCS1-v1_5
// with SHA-256.
const nativeMethod = "RSA_PKCS1_SHA_256"

// The headers of the native API that are looked at. The id's is misspelt so in every
// SDK.
const (
	nativePrefix     = "x-kms-"
	nativeId         = "x-kms-acccesskeyid"
	nativeName       = "x-kms-apiname"
	nativeVersion    = "x-kms-apiversion"
	nativeMethodName = "x-kms-signaturemethod"
)

// NativeKeyVersionHeader carries a KeyVersionId in requests and in answers of the
// native API.
const NativeKeyVersionHeader = "x-kms-migrationkeyversionid"

// ErrNoClientKey: a native request does not say whose it is.
var ErrNoClientKey = errors.New("the header " + nativeId + " is missing")

// A ParamError says which header of a native request is missing or malformed. The
// text is KMS's to the letter: the transfer SDK compares it.
type ParamError struct {
	Param string
	Value string // if it is one that is not supported
}

func (e *ParamError) Error() string {
	text := fmt.Sprintf("The Param %s is invalid.", e.Param)
	if e.Value != "" {
		text += fmt.Sprintf(" message:%.40q.", e.Value)
	}
	return text
}

// IsNative reports whether a request is for the native API: it names an operation
// as that does, or has a body of that kind.
func IsNative(h http.Header) bool {
	return len(h.Values(nativeName)) > 0 || strings.HasPrefix(h.Get("Content-Type"), NativeContentType)
}

// NativeContentType is that of the native API's messages.
const NativeContentType = "application/x-protobuf"

// ParseNative reads the claim of a request to the native API from its headers. The
// signature covers the body's hash, so the body is not needed to judge it; it has to
// be shown to [Claim.Covers] before anything in it is believed. There is no nonce:
// two equal requests of one second are the same to the byte. A version header, which
// may be empty, is the parameter KeyVersionId. Errors are *ParamError,
// ErrNoClientKey, and ErrParameters for a query, which nothing signs.
func ParseNative(r *http.Request) (*Claim, error) {
	if r.URL.RawQuery != "" {
		return nil, fmt.Errorf("%w: the native API has no query", ErrParameters)
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
		Parameters:  map[string]string{"KeyVersionId": signed[NativeKeyVersionHeader]},
		bodyHash:    signed["content-sha256"],
		toSign:      func() string { return nativeStringToSign(r.Method, signed) },
		verifyKey: func(toSign string, public *rsa.PublicKey) bool {
			digest := sha256.Sum256([]byte(toSign))
			return rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature) == nil
		},
	}, nil
}

// nativeHeaders collects what a native signature covers, and the signature itself,
// by name in lower case. What stands twice is refused: it has two meanings.
func nativeHeaders(h http.Header) (map[string]string, error) {
	signed := make(map[string]string)
	for name, values := range h {
		lower := strings.ToLower(name)
		shown, ok := nativeShown[lower]
		if !ok && !strings.HasPrefix(lower, nativePrefix) {
			continue
		}
		if len(values) != 1 {
			if shown == "" {
				shown = lower
			}
			return nil, &ParamError{Param: shown}
		}
		signed[lower] = strings.TrimSpace(values[0])
	}
	return signed, nil
}

// nativeShown are the headers that matter besides those with the prefix, and how
// errors call them.
var nativeShown = map[string]string{"authorization": "Authorization", "content-sha256": "content-sha256", "content-type": "content-type", "date": "Date"}

func nativeSignature(authorization string) ([]byte, error) {
	text, ok := strings.CutPrefix(authorization, "Bearer ")
	signature, err := base64.StdEncoding.Strict().DecodeString(text)
	if !ok || err != nil || len(signature) == 0 {
		return nil, &ParamError{Param: "Authorization"}
	}
	return signature, nil
}

// nativeStringToSign takes every header with the prefix, also such as nobody knows.
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
