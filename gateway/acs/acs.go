// Package acs reads the identity that a request claims and verifies the request's signature.
//
// It supports the signatures of Alibaba Cloud's SDKs: the header signatures ACS3-HMAC-SHA256,
// ACS3-HMAC-SM3 and ACS4-HMAC-SHA256, and signature version 1.0 (HMAC-SHA1). For the native API it
// supports the RSA signatures of client keys, as the KMS Instance SDK makes them. The functions
// have no state and use neither I/O nor the clock. The caller checks the time window and the
// nonces.
//
// The package guarantees that the signature which VerifySecret or VerifyKey checks covers
// everything in a [Claim]: action, version, time, nonce and every parameter. It refuses an
// ambiguous request, for example one with two signatures or with the same parameter twice.
package acs

import (
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// These errors refuse a request before any secret is looked up. Compare them with errors.Is.
var (
	// ErrParameters means that the query, form or headers are malformed or ambiguous.
	ErrParameters = errors.New("malformed parameters")
	// ErrIncomplete means that the signature, or something that it must cover, is missing,
	// malformed or occurs twice.
	ErrIncomplete = errors.New("incomplete signature")
	// ErrMethod means that the signature method or version is not supported.
	ErrMethod = errors.New("unsupported signature method")
	// ErrToken means that the request carries an STS security token. The gateway has no STS.
	ErrToken = errors.New("security tokens are not supported")
	// ErrTimeFormat means that the time stamp does not have the form 2006-01-02T15:04:05Z.
	ErrTimeFormat = errors.New("malformed time stamp")
)

// A Request holds the parts of an HTTP request that this package needs.
type Request struct {
	Method string
	Host   string // as received, port included
	Header http.Header
	Query  map[string]string // decoded
	Form   map[string]string // decoded from the body
	Body   []byte
}

// NewRequest returns the Request for an HTTP request. body must be the complete body of r. Errors
// are ErrParameters.
func NewRequest(r *http.Request, body []byte) (*Request, error) {
	query, err := parseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("%w: parsing the query: %w", ErrParameters, err)
	}
	form, err := parseForm(r.Header, body)
	if err != nil {
		return nil, fmt.Errorf("%w: parsing the body: %w", ErrParameters, err)
	}
	for name := range form {
		if _, ok := query[name]; ok {
			return nil, fmt.Errorf("%w: the query and the body both contain %q", ErrParameters, name)
		}
	}
	return &Request{r.Method, r.Host, r.Header, query, form, body}, nil
}

// Parameter returns a parameter of the query or the form, or "" if the request has no such
// parameter.
func (r *Request) Parameter(name string) string {
	if value, ok := r.Query[name]; ok {
		return value
	}
	return r.Form[name]
}

// parseQuery decodes a query or form and refuses a repeated name. Clients escape differently: a
// space is + or %20, and * is escaped or not. Signatures are therefore computed over the decoded
// values, never over the received text.
func parseQuery(raw string) (map[string]string, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, err
	}
	parameters := make(map[string]string, len(values))
	for name, v := range values {
		if len(v) != 1 {
			return nil, fmt.Errorf("%q occurs %d times", name, len(v))
		}
		if !isName(name) {
			// The message omits the name, which can be the part of a password after an &.
			return nil, errors.New("a parameter has an invalid name")
		}
		parameters[name] = v[0]
	}
	return parameters, nil
}

// isName reports whether a parameter's name consists of letters, digits and "._-". ACS3 signs names
// without escaping them, so with "=" or "&" in a name one signature could fit two requests.
func isName(s string) bool {
	return s != "" && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == ""
}

func parseForm(h http.Header, body []byte) (map[string]string, error) {
	if len(body) == 0 {
		return nil, nil // old SDKs send a Content-Type even without a body
	}
	contentType, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil || contentType != "application/x-www-form-urlencoded" {
		return nil, errors.New("the Content-Type is not application/x-www-form-urlencoded")
	}
	return parseQuery(string(body))
}

// A Claim is the identity that a request claims, and what the request asks for. It is unverified
// until VerifySecret or VerifyKey returns true.
type Claim struct {
	Protocol    string // the header's algorithm, "RPC-1.0", or NativeProtocol
	AccessKeyId string
	Action      string // may be empty
	Version     string // the API's version
	Nonce       string // empty in the native API
	Time        time.Time
	Parameters  map[string]string // all parameters except those that belong to the signature

	// WrongBodyHash reports that the signed hash is not that of the body. No secret verifies then.
	WrongBodyHash bool

	toSign    func() string
	verify    func(toSign, secret string) bool                // nil unless signed with a secret
	verifyKey func(toSign string, public *rsa.PublicKey) bool // nil unless signed with a key
	bodyHash  string                                          // only in the native API; hexadecimal
}

// StringToSign returns the string that the client must have signed. It computes the string at each
// call, because the string can be five times as long as the request, too much to keep for every
// caller.
func (c *Claim) StringToSign() string { return c.toSign() }

// VerifySecret reports whether the request was signed with this AccessKeySecret. It compares in
// constant time.
func (c *Claim) VerifySecret(secret string) bool {
	return c.verify != nil && c.verify(c.toSign(), secret)
}

// VerifyKey reports whether a native request was signed with the private key that belongs to
// public.
func (c *Claim) VerifyKey(public *rsa.PublicKey) bool {
	return c.verifyKey != nil && c.verifyKey(c.toSign(), public)
}

// Covers reports whether a native request's signature covers this body.
func (c *Claim) Covers(body []byte) bool {
	return strings.EqualFold(c.bodyHash, hexHash(sha256.New, body))
}

// Parse reads the claim of a request with a header signature or a signature of version 1.0.
func Parse(r *Request) (*Claim, error) {
	_, inQuery := r.Query["Signature"]
	_, inForm := r.Form["Signature"]
	inHeader := len(r.Header["Authorization"]) > 0
	var claim *Claim
	var err error
	switch {
	case inHeader && (inQuery || inForm):
		return nil, fmt.Errorf("%w: both an Authorization header and a Signature parameter are present (send only one)",
			ErrIncomplete)
	case inHeader:
		claim, err = ParseHeader(r)
	case inQuery || inForm:
		claim, err = ParseRPC(r)
	default:
		return nil, fmt.Errorf("%w: neither an Authorization header nor a Signature parameter is present",
			ErrIncomplete)
	}
	if err == nil && len(claim.Nonce) > maxNonce {
		return nil, fmt.Errorf("%w: the nonce is longer than %d bytes", ErrIncomplete, maxNonce)
	}
	return claim, err
}

// maxNonce is the maximum length of a nonce in bytes. Clients send at most 64 characters.
const maxNonce = 256

// parameters returns the parameters of the query and the form, without those in skip.
func (r *Request) parameters(skip map[string]bool) map[string]string {
	all := make(map[string]string, len(r.Query)+len(r.Form))
	for _, part := range []map[string]string{r.Query, r.Form} {
		for name, value := range part {
			if !skip[name] {
				all[name] = value
			}
		}
	}
	return all
}

// header returns the value of a header, or ErrIncomplete if the header does not occur exactly once.
func (r *Request) header(name string) (string, error) {
	if name == "host" {
		return r.Host, nil
	}
	values := r.Header.Values(name)
	if len(values) != 1 {
		return "", fmt.Errorf("%w: the header %s occurs %d times, want once", ErrIncomplete, name, len(values))
	}
	return strings.TrimSpace(values[0]), nil
}

// checkAction refuses a request whose header and parameter name different actions. Only one of the
// two is signed, and which one depends on the protocol.
func (r *Request) checkAction(parameter string) error {
	for _, header := range r.Header.Values("X-Acs-Action") {
		if parameter != "" && header != parameter {
			return fmt.Errorf("%w: the header x-acs-action is %q but the parameter Action is %q",
				ErrParameters, header, parameter)
		}
	}
	return nil
}

// hasToken reports whether the request carries an STS token anywhere. Its sender claims an STS
// identity, which the gateway does not have.
func (r *Request) hasToken() bool {
	return len(r.Header.Values("X-Acs-Security-Token")) > 0 ||
		r.Query["SecurityToken"] != "" || r.Form["SecurityToken"] != ""
}

func parseTime(source, s string) (time.Time, error) {
	t, err := time.Parse(kms.TimeLayout, s)
	if err != nil || len(s) != len(kms.TimeLayout) {
		return time.Time{}, fmt.Errorf("%w: %s is %.40q, want the form %s", ErrTimeFormat, source, s, kms.TimeLayout)
	}
	return t, nil
}

// escape percent-encodes all characters except RFC 3986's unreserved ones.
func escape(s string) string {
	// QueryEscape keeps "-_.~", letters and digits. It turns a space into a plus and escapes a
	// plus.
	return strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
}
