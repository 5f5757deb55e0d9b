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
	"encoding/hex"
	"errors"
	"fmt"
	"mime"
	"net/http"
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

// A Head is what a request claims before its body is read and before its parameters are split. It
// costs little, so the gateway can refuse an unknown caller early. Nothing in it is verified. The
// [Claim] has all of it again.
type Head struct {
	Protocol    string     // as in Claim; empty if no access key was found
	AccessKeyId string     // empty if only the body can have it
	Action      string     // may be empty
	Time        *time.Time // nil for signature version 1.0, whose time stamp is one of the parameters

	method    string
	host      string // as received, port included
	query     string // as received
	header    http.Header
	signature headerSignature // zero for signature version 1.0

	// Claim sets these.
	parameters parameters
	body       string
}

// ReadHead returns the Head of a request, and does not read its body. For a header signature it checks
// everything in the headers. For signature version 1.0 it looks for the access key in the query, as
// Scan does.
func ReadHead(r *http.Request) (*Head, error) {
	h := &Head{method: r.Method, host: r.Host, query: r.URL.RawQuery, header: r.Header}
	if len(r.Header["Authorization"]) == 0 {
		h.Scan(h.query)
		return h, nil
	}
	if err := h.readSignature(); err != nil {
		return nil, err
	}
	s := &h.signature
	h.Protocol, h.AccessKeyId, h.Action, h.Time = s.algorithm, s.accessKeyId, s.headers.get("x-acs-action"), &s.date
	return h, nil
}

// Scan looks for the access key and the action in a query or form, unless the head has an access key.
// It does not split the text.
func (h *Head) Scan(text string) {
	if h.AccessKeyId != "" {
		return
	}
	if h.AccessKeyId = Find(text, "AccessKeyId"); h.AccessKeyId != "" {
		h.Protocol = protocolRPC
	}
	if h.Action == "" {
		h.Action = Find(text, "Action")
	}
}

// MediaType returns the Content-Type of a request without its parameters. It returns "" if the
// Content-Type is missing, malformed or longer than maxContentType.
func MediaType(h http.Header) string {
	text := h.Get("Content-Type")
	if len(text) > maxContentType {
		return ""
	}
	mediaType, _, err := mime.ParseMediaType(text)
	if err != nil {
		return ""
	}
	return mediaType
}

// maxContentType is the maximum length of a Content-Type in bytes. Clients send less than 80. Parsing
// the parameters of a very long one would cost more than all the rest of a request.
const maxContentType = 1024

// A Claim is the identity that a request claims, and what the request asks for. It is unverified
// until VerifySecret or VerifyKey returns true.
type Claim struct {
	Protocol    string // the header's algorithm, "RPC-1.0", or NativeProtocol
	AccessKeyId string
	Action      string // may be empty
	Version     string // the API's version
	Nonce       string // empty in the native API
	Time        time.Time

	// WrongBodyHash reports that VerifySecret returned false although the signature is valid: the
	// signed hash is not that of the body.
	WrongBodyHash bool

	signed   signed
	bodyHash string // only in the native API; hexadecimal
}

// signed is a request with its signature. Claim's Parameters, StringToSign and VerifySecret call its decoded,
// toSign and verify.
type signed interface {
	decoded() map[string]string
	toSign() string
	// verify also reports whether the signature is valid, but not for the body.
	verify(secret *Secret) (valid, wrongBody bool)
}

// Parameters returns all parameters except those that belong to the signature, decoded. It makes the
// map at each call. The gateway calls it only for a verified claim, so that others cost no map.
func (c *Claim) Parameters() map[string]string { return c.signed.decoded() }

// StringToSign returns the string that the client must have signed. It computes the string at each
// call, because the string can be five times as long as the request. VerifySecret does not need the
// string as a whole.
func (c *Claim) StringToSign() string { return c.signed.toSign() }

// VerifySecret reports whether the request was signed with this AccessKeySecret. It compares in
// constant time.
func (c *Claim) VerifySecret(secret *Secret) (valid bool) {
	valid, c.WrongBodyHash = c.signed.verify(secret)
	return valid
}

// VerifyKey reports whether a native request was signed with the private key that belongs to
// public.
func (c *Claim) VerifyKey(public *rsa.PublicKey) bool {
	native, ok := c.signed.(*signedByKey)
	return ok && native.verifyKey(public)
}

// Covers reports whether a native request's signature covers this body.
func (c *Claim) Covers(body []byte) bool {
	hash := sha256.Sum256(body)
	return strings.EqualFold(c.bodyHash, hex.EncodeToString(hash[:]))
}

// Parse reads the claim of a request with a header signature or a signature of version 1.0. body must
// be the complete body of r.
func Parse(r *http.Request, body string) (*Claim, error) {
	h, err := ReadHead(r)
	if err != nil {
		return nil, err
	}
	return h.Claim(body)
}

// Claim reads the claim of the request. body must be its complete body.
func (h *Head) Claim(body string) (*Claim, error) {
	p, err := h.split(body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrParameters, err)
	}
	h.parameters, h.body = p, body
	_, hasParameter := p.find("Signature")
	switch hasHeader := h.signature.scheme != nil; {
	case hasHeader && hasParameter:
		return nil, fmt.Errorf("%w: both an Authorization header and a Signature parameter are present (send only one)",
			ErrIncomplete)
	case hasHeader:
		return h.headerClaim()
	case hasParameter:
		return h.rpcClaim()
	}
	return nil, fmt.Errorf("%w: neither an Authorization header nor a Signature parameter is present",
		ErrIncomplete)
}

// checkNonce refuses a long nonce. Clients send at most 64 characters.
func checkNonce(nonce string) error {
	const maxNonce = 256
	if len(nonce) > maxNonce {
		return fmt.Errorf("%w: the nonce is longer than %d bytes", ErrIncomplete, maxNonce)
	}
	return nil
}

// value returns the value of a header, or ErrIncomplete if the header does not occur exactly once.
func (h *Head) value(name string) (string, error) {
	if name == "host" {
		return h.host, nil
	}
	values := h.header[canonicalName(name)]
	if len(values) != 1 {
		return "", fmt.Errorf("%w: the header %s occurs %d times, want once", ErrIncomplete, name, len(values))
	}
	return strings.TrimSpace(values[0]), nil
}

// canonicalNames are the names of headers that clients sign, as http.Header has them, by name in lower case.
// For other names, http.CanonicalHeaderKey makes a new text.
var canonicalNames = func() map[string]string {
	all := make(map[string]string)
	for _, name := range append([]string{"accept", "content-type", "x-acs-signature-method",
		"x-acs-signature-version"}, requiredHeaders...) {
		all[name] = http.CanonicalHeaderKey(name)
	}
	return all
}()

func canonicalName(name string) string {
	if known, ok := canonicalNames[name]; ok {
		return known
	}
	return http.CanonicalHeaderKey(name)
}

// checkAction refuses a request whose header and parameter name different actions. Only one of the
// two is signed, and which one depends on the protocol.
func (h *Head) checkAction(p parameters) error {
	parameter := p.get("Action")
	for _, header := range h.header.Values("X-Acs-Action") {
		if parameter != "" && header != parameter {
			return fmt.Errorf("%w: the header x-acs-action is %q but the parameter Action is %q",
				ErrParameters, header, parameter)
		}
	}
	return nil
}

// hasToken reports whether the headers carry an STS token. Its sender claims an STS identity, which
// the gateway does not have.
func (h *Head) hasToken() bool { return len(h.header.Values("X-Acs-Security-Token")) > 0 }

func parseTime(source, s string) (time.Time, error) {
	t, err := time.Parse(kms.TimeLayout, s)
	if err != nil || len(s) != len(kms.TimeLayout) {
		return time.Time{}, fmt.Errorf("%w: %s is %.40q, want the form %s", ErrTimeFormat, source, s, kms.TimeLayout)
	}
	return t, nil
}
