package acs

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// signatureParameters belong to the signature and are not parameters of the operation.
var signatureParameters = map[string]bool{
	"Action": true, "Version": true, "AccessKeyId": true, "Signature": true, "SignatureMethod": true,
	"SignatureVersion": true, "SignatureNonce": true, "SignatureType": true, "Timestamp": true, "SecurityToken": true,
}

// ParseRPC reads a claim of signature version 1.0, in which everything is a parameter in the query
// or the form. It does not use the headers x-acs-action and x-acs-version, which clients send
// without signing them.
func ParseRPC(r *Request) (*Claim, error) {
	p := r.parameters(nil)
	required := []string{"AccessKeyId", "Signature", "SignatureMethod", "SignatureVersion", "SignatureNonce",
		"Timestamp"}
	for _, name := range required {
		if p[name] == "" {
			return nil, fmt.Errorf("%w: the parameter %s is missing", ErrIncomplete, name)
		}
	}
	if p["SignatureMethod"] != "HMAC-SHA1" || p["SignatureVersion"] != "1.0" || p["SignatureType"] != "" {
		return nil, fmt.Errorf("%w: SignatureMethod %.40q, SignatureVersion %.40q, SignatureType %.40q "+
			`(supported: "HMAC-SHA1", "1.0", "")`,
			ErrMethod, p["SignatureMethod"], p["SignatureVersion"], p["SignatureType"])
	}
	signature, err := base64.StdEncoding.DecodeString(p["Signature"])
	if err != nil || len(signature) != sha1.Size {
		return nil, fmt.Errorf("%w: the parameter Signature is not %d bytes in Base64", ErrIncomplete, sha1.Size)
	}
	if r.hasToken() {
		return nil, ErrToken
	}
	if err := r.checkAction(p["Action"]); err != nil {
		return nil, err
	}
	date, err := parseTime("the parameter Timestamp", p["Timestamp"])
	if err != nil {
		return nil, err
	}
	return &Claim{
		Protocol:    "RPC-1.0",
		AccessKeyId: p["AccessKeyId"],
		Action:      p["Action"],
		Version:     p["Version"],
		Nonce:       p["SignatureNonce"],
		Time:        date,
		Parameters:  r.parameters(signatureParameters),
		toSign:      func() string { return stringToSignRPC(r.Method, p) },
		verify: func(toSign, secret string) bool {
			mac := hmac.New(sha1.New, []byte(secret+"&"))
			mac.Write([]byte(toSign))
			return hmac.Equal(mac.Sum(nil), signature)
		},
	}, nil
}

func stringToSignRPC(method string, parameters map[string]string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		if name == "Signature" {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('&')
		}
		b.WriteString(escape(name) + "=" + escape(parameters[name]))
	}
	return method + "&" + escape("/") + "&" + escape(b.String())
}
