package acs

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"strings"
)

// protocolRPC is the Protocol of a claim with a signature of version 1.0.
const protocolRPC = "RPC-1.0"

// signatureParameters belong to the signature and are not parameters of the operation.
var signatureParameters = map[string]bool{
	"Action": true, "Version": true, "AccessKeyId": true, "Signature": true, "SignatureMethod": true,
	"SignatureVersion": true, "SignatureNonce": true, "SignatureType": true, "Timestamp": true, "SecurityToken": true,
}

// rpcClaim returns the claim of a request with a signature of version 1.0, in which everything is a
// parameter in the query or the form. It does not use the headers x-acs-action and x-acs-version,
// which clients send without signing them.
func (h *Head) rpcClaim() (*Claim, error) {
	p := h.parameters
	required := []string{"AccessKeyId", "Signature", "SignatureMethod", "SignatureVersion", "SignatureNonce",
		"Timestamp"}
	for _, name := range required {
		if p.get(name) == "" {
			return nil, fmt.Errorf("%w: the parameter %s is missing", ErrIncomplete, name)
		}
	}
	method, version, kind := p.get("SignatureMethod"), p.get("SignatureVersion"), p.get("SignatureType")
	if method != "HMAC-SHA1" || version != "1.0" || kind != "" {
		return nil, fmt.Errorf("%w: SignatureMethod %.40q, SignatureVersion %.40q, SignatureType %.40q "+
			`(supported: "HMAC-SHA1", "1.0", "")`, ErrMethod, method, version, kind)
	}
	signature, err := base64.StdEncoding.DecodeString(p.get("Signature"))
	if err != nil || len(signature) != sha1.Size {
		return nil, fmt.Errorf("%w: the parameter Signature is not %d bytes in Base64", ErrIncomplete, sha1.Size)
	}
	nonce := p.get("SignatureNonce")
	if err := checkNonce(nonce); err != nil {
		return nil, err
	}
	if h.hasToken() || p.get("SecurityToken") != "" {
		return nil, ErrToken
	}
	if err := h.checkAction(p); err != nil {
		return nil, err
	}
	date, err := parseTime("the parameter Timestamp", p.get("Timestamp"))
	if err != nil {
		return nil, err
	}
	return &Claim{
		Protocol:    protocolRPC,
		AccessKeyId: p.get("AccessKeyId"),
		Action:      p.get("Action"),
		Version:     p.get("Version"),
		Nonce:       nonce,
		Time:        date,
		signed:      signedByParameter{h},
	}, nil
}

// signedByParameter is a request with a signature of version 1.0.
type signedByParameter struct{ *Head }

func (r signedByParameter) decoded() map[string]string {
	return r.parameters.decoded(func(name string) bool { return signatureParameters[name] })
}

func (r signedByParameter) toSign() string {
	var b strings.Builder
	w := bufio.NewWriter(&b)
	r.writeToSign(w)
	w.Flush()
	return b.String()
}

func (r signedByParameter) verify(secret *Secret) (valid, wrongBody bool) {
	signature, err := base64.StdEncoding.DecodeString(r.parameters.get("Signature"))
	return err == nil && secret.verify(sha1MAC, signature, r.writeToSign), false
}

// writeToSign writes the string to sign: the method, the path, and the query of all parameters, which
// is percent-encoded once more. Names need no escaping.
func (h *Head) writeToSign(w *bufio.Writer) {
	w.WriteString(h.method)
	w.WriteString("&%2F&")
	first := true
	for _, one := range h.parameters {
		if one.name == "Signature" {
			continue
		}
		if !first {
			w.WriteString("%26")
		}
		first = false
		w.WriteString(one.name)
		w.WriteString("%3D")
		escapedTwice.write(w, one)
	}
}
