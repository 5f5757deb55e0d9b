// Package acs reads who a request says it is from, and checks
// whether that is true.
//
// It understands the header signatures ACS3-HMAC-SHA256, ACS3-HMAC-SM3 and
// ACS4-HMAC-SHA256, and signature version 1.0 (HMAC-SHA1), as Alibaba Cloud's
// SDKs make them, and the RSA signatures of client keys, as the KMS Instance SDK
// makes them for the native API. Its functions are pure: no I/O, no clock, no state.
// Time windows and used nonces are the caller's to judge.
//
// It guarantees that what a [Claim] says is covered by the signature that
// VerifySecret or VerifyKey checks: action, version, time, nonce and every parameter. A
// request that could be read in two ways, because it has two signatures or
// names a parameter twice, is refused and not interpreted.
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

// The ways in which a request can be refused before anyone's secret is looked
// at. Compare with errors.Is.
var (
	// ErrParameters: the query, form or headers are malformed or ambiguous.
	ErrParameters = errors.New("malformed parameters")
	// ErrIncomplete: the signature, or something that it must cover, is
	// missing, malformed or there twice.
	ErrIncomplete = errors.New("incomplete signature")
	// ErrMethod: the signature method or version is not supported.
	ErrMethod = errors.New("unsupported signature method")
	// ErrToken: the request carries an STS security token. There is no STS here.
	ErrToken = errors.New("security tokens are not supported")
	// ErrTimeFormat: the time stamp is not of the form 2006-01-02T15:04:05Z.
	ErrTimeFormat = errors.New("malformed time stamp")
)

// A Request is what of an HTTP request matters here.
type Request struct {
	Method string
	Host   string // as received, port included
	Header http.Header
	Query  map[string]string // decoded
	Form   map[string]string // decoded from the body
	Body   []byte
}

// NewRequest takes an HTTP request apart; body is all of r's body. Its errors
// are ErrParameters.
func NewRequest(r *http.Request, body []byte) (*Request, error) {
	query, err := parseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("%w: the query: %w", ErrParameters, err)
	}
	form, err := parseForm(r.Header, body)
	if err != nil {
		return nil, fmt.Errorf("%w: the body: %w", ErrParameters, err)
	}
	for name := range form {
		if _, twice := query[name]; twice {
			return nil, fmt.Errorf("%w: %q is in the query and in the body", ErrParameters, name)
		}
	}
	return &Request{r.Method, r.Host, r.Header, query, form, body}, nil
}

// Parameter gives a parameter from wherever it was sent, "" if it was not.
func (r *Request) Parameter(name string) string {
	if value, ok := r.Query[name]; ok {
		return value
	}
	return r.Form[name]
}

// parseQuery decodes a query or form in which every name stands once. Clients
// escape differently (a space is + or %20, * is escaped or not), so the
// signature is never computed over what was received, only over this.
func parseQuery(raw string) (map[string]string, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, err
	}
	once := make(map[string]string, len(values))
	for name, v := range values {
		if len(v) != 1 {
			return nil, fmt.Errorf("%q is there %d times", name, len(v))
		}
		if !isName(name) {
			// It is not shown: it can be what follows an & in somebody's password.
			return nil, errors.New("there is a parameter whose name is none")
		}
		once[name] = v[0]
	}
	return once, nil
}

// isName reports whether a parameter's name consists of letters, digits and
// "._-". ACS3 signs names as they are, not escaped, so a name with "=" or "&"
// in it could make two requests of one signature.
func isName(s string) bool {
	return s != "" && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == ""
}

func parseForm(h http.Header, body []byte) (map[string]string, error) {
	if len(body) == 0 {
		return nil, nil // old SDKs name a content type for no content
	}
	contentType, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil || contentType != "application/x-www-form-urlencoded" {
		return nil, errors.New("its Content-Type is not application/x-www-form-urlencoded")
	}
	return parseQuery(string(body))
}

// A Claim is who a request says it is from, and what it asks for. Nothing in it
// is true before VerifySecret or VerifyKey says so.
type Claim struct {
	Protocol    string // the header's algorithm, "RPC-1.0", or NativeProtocol
	AccessKeyId string
	Action      string // may be empty
	Version     string // of the API
	Nonce       string // the native API has none
	Time        time.Time
	Parameters  map[string]string // all that were sent, without those that belong to the signature

	// WrongBodyHash: the signed hash is not the body's, so no secret verifies.
	WrongBodyHash bool

	toSign    func() string
	verify    func(toSign, secret string) bool                // nil: it is not signed with a secret
	verifyKey func(toSign string, public *rsa.PublicKey) bool // nil: it is not signed with a key
	bodyHash  string                                          // of the native API, in hexadecimal
}

// StringToSign is what the client should have signed. It is computed anew each
// time: it can be five times as long as the request, which is much to keep for
// whoever asks.
func (c *Claim) StringToSign() string { return c.toSign() }

// VerifySecret reports whether the request was signed with this
// AccessKeySecret. It compares in constant time.
func (c *Claim) VerifySecret(secret string) bool {
	return c.verify != nil && c.verify(c.toSign(), secret)
}

// VerifyKey reports whether a native request was signed with the private half of
// this key.
func (c *Claim) VerifyKey(public *rsa.PublicKey) bool {
	return c.verifyKey != nil && c.verifyKey(c.toSign(), public)
}

// Covers reports whether a native request's signature is for this body.
func (c *Claim) Covers(body []byte) bool {
	return strings.EqualFold(c.bodyHash, hexHash(sha256.New, body))
}

// Parse reads a request's claim, whichever way it is signed.
func Parse(r *Request) (*Claim, error) {
	_, inQuery := r.Query["Signature"]
	_, inForm := r.Form["Signature"]
	inHeader := len(r.Header["Authorization"]) > 0
	var claim *Claim
	var err error
	switch {
	case inHeader && (inQuery || inForm):
		return nil, fmt.Errorf("%w: there is an Authorization header and a Signature parameter: send one", ErrIncomplete)
	case inHeader:
		claim, err = ParseHeader(r)
	case inQuery || inForm:
		claim, err = ParseRPC(r)
	default:
		return nil, fmt.Errorf("%w: there is neither an Authorization header nor a Signature parameter", ErrIncomplete)
	}
	if err == nil && len(claim.Nonce) > maxNonce {
		return nil, fmt.Errorf("%w: the nonce is longer than %d bytes", ErrIncomplete, maxNonce)
	}
	return claim, err
}

// maxNonce is far more than the 64 characters that any client sends.
const maxNonce = 256

// parameters merges query and form, without the names that skip has.
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

// header gives a header that stands once, or ErrIncomplete.
func (r *Request) header(name string) (string, error) {
	if name == "host" {
		return r.Host, nil
	}
	values := r.Header.Values(name)
	if len(values) != 1 {
		return "", fmt.Errorf("%w: the header %s is there %d times, not once", ErrIncomplete, name, len(values))
	}
	return strings.TrimSpace(values[0]), nil
}

// sameAction refuses a request whose two places for the action disagree: one of
// them is not signed, and which one depends on the protocol.
func (r *Request) sameAction(parameter string) error {
	for _, header := range r.Header.Values("X-Acs-Action") {
		if parameter != "" && header != parameter {
			return fmt.Errorf("%w: the header x-acs-action says %q, the parameter Action %q", ErrParameters, header, parameter)
		}
	}
	return nil
}

// hasToken reports whether the request carries an STS token, wherever it is:
// whoever sends one means to be somebody that there is not here.
func (r *Request) hasToken() bool {
	return len(r.Header.Values("X-Acs-Security-Token")) > 0 || r.Query["SecurityToken"] != "" || r.Form["SecurityToken"] != ""
}

func parseTime(what, s string) (time.Time, error) {
	t, err := time.Parse(kms.TimeLayout, s)
	if err != nil || len(s) != len(kms.TimeLayout) {
		return time.Time{}, fmt.Errorf("%w: %s, %.40q, is not of the form %s", ErrTimeFormat, what, s, kms.TimeLayout)
	}
	return t, nil
}

// escape percent-encodes all but RFC 3986's unreserved characters.
func escape(s string) string {
	// QueryEscape leaves "-_.~", letters and digits, and makes a space a plus;
	// a real plus it escapes.
	return strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
}
