package acs

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/emmansun/gmsm/sm3"
)

// A scheme is one signature scheme of the Authorization header.
type scheme struct {
	hash          func() hash.Hash // for all hashes and HMACs; 32 bytes
	contentHeader string           // the header with the body's hash, in hexadecimal
	// derive derives the HMAC key from a secret and the credential's scope.
	derive func(h func() hash.Hash, secret string, scope []string) []byte
	scope  int // the number of scope elements after the AccessKeyId in Credential
	// empty follows the name of a parameter without a value in the canonical query.
	empty string
}

// schemes are the supported schemes. ACS3 with SM3 also uses the content header named after
// SHA-256.
var schemes = map[string]scheme{
	"ACS3-HMAC-SHA256": {sha256.New, "x-acs-content-sha256", secretAsKey, 0, "="},
	"ACS3-HMAC-SM3":    {sm3.New, "x-acs-content-sha256", secretAsKey, 0, "="},
	"ACS4-HMAC-SHA256": {sha256.New, "x-acs-content-sha256", derivedKey, 4, ""},
}

func secretAsKey(_ func() hash.Hash, secret string, _ []string) []byte { return []byte(secret) }

// derivedKey chains HMACs over date, region, product and a constant. Clients derive the region from
// the endpoint in different ways, so derivedKey uses the scope in the credential. The signature
// covers it.
func derivedKey(h func() hash.Hash, secret string, scope []string) []byte {
	key := []byte("aliyun_v4" + secret)
	for _, part := range scope {
		key = sum(h, key, part)
	}
	return key
}

func sum(h func() hash.Hash, key []byte, text string) []byte {
	mac := hmac.New(h, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// hexHash returns the hash of what write writes, in hexadecimal. A text can be hashed in pieces, so
// that it is never in memory as a whole.
func hexHash(h func() hash.Hash, write func(w *bufio.Writer)) string {
	d := h()
	w := bufio.NewWriter(d)
	write(w)
	w.Flush()
	return hex.EncodeToString(d.Sum(nil))
}

// requiredHeaders are the headers that a signature must cover besides the content header. Client
// versions differ in the other headers that they sign. The host is not required: the older Java SDK
// does not sign it, and signature version 1.0 never does.
var requiredHeaders = []string{"x-acs-action", "x-acs-version", "x-acs-date", "x-acs-signature-nonce"}

// A headerSignature is the signature in an Authorization header, with the headers that it covers.
type headerSignature struct {
	authorization
	headers map[string]string // by name in lower case
	date    time.Time         // of x-acs-date
}

// readSignature reads the signature from an Authorization header of the form
//
//	ACS3-HMAC-SHA256 Credential=<AccessKeyId>,SignedHeaders=<h1;h2;…>,Signature=<hex>
//
// or the same with ACS3-HMAC-SM3, or with ACS4-HMAC-SHA256 and a Credential of
// <AccessKeyId>/<yyyymmdd>/<region>/<product>/aliyun_v4_request.
func (h *Head) readSignature() (*headerSignature, error) {
	auth, err := h.parseAuthorization()
	if err != nil {
		return nil, err
	}
	headers, err := h.signedHeaders(auth.signedHeaders, auth.scheme.contentHeader)
	if err != nil {
		return nil, err
	}
	if err := checkNonce(headers["x-acs-signature-nonce"]); err != nil {
		return nil, err
	}
	if h.hasToken() {
		return nil, ErrToken
	}
	date, err := parseTime("the header x-acs-date", headers["x-acs-date"])
	if err != nil {
		return nil, err
	}
	if len(auth.scope) > 0 && (auth.scope[0] != date.Format("20060102") || auth.scope[3] != "aliyun_v4_request") {
		return nil, fmt.Errorf("%w: the credential's scope must begin with the day of x-acs-date "+
			"and end with aliyun_v4_request", ErrIncomplete)
	}
	return &headerSignature{auth, headers, date}, nil
}

// headerClaim returns the claim of a request with a header signature.
func (h *Head) headerClaim(p parameters, body string) (*Claim, error) {
	if p.get("SecurityToken") != "" {
		return nil, ErrToken
	}
	if err := h.checkAction(p); err != nil {
		return nil, err
	}
	auth := h.signature
	s, headers := auth.scheme, auth.headers
	c := &Claim{
		Protocol:    auth.algorithm,
		AccessKeyId: auth.accessKeyId,
		Action:      headers["x-acs-action"],
		Version:     headers["x-acs-version"],
		Nonce:       headers["x-acs-signature-nonce"],
		Time:        auth.date,
		parameters: func() map[string]string {
			return p.decoded(map[string]bool{"Action": true, "SecurityToken": true})
		},
		toSign: func() string {
			return auth.algorithm + "\n" + hexHash(s.hash, func(w *bufio.Writer) { h.writeCanonical(w, p) })
		},
	}
	c.verify = func(secret string) bool {
		want := sum(s.hash, s.derive(s.hash, secret, auth.scope), c.toSign())
		if !hmac.Equal(want, auth.signature) {
			return false
		}
		// The signature covers only the body's hash, so the hash has to be checked, too. Nobody
		// without the secret makes the gateway compute it.
		bodyHash := hexHash(s.hash, func(w *bufio.Writer) { w.WriteString(body) })
		c.WrongBodyHash = !strings.EqualFold(headers[s.contentHeader], bodyHash)
		return !c.WrongBodyHash
	}
	return c, nil
}

// An authorization holds the parts of an Authorization header.
type authorization struct {
	algorithm     string
	scheme        scheme
	accessKeyId   string
	scope         []string
	signedHeaders []string
	signature     []byte
}

func (h *Head) parseAuthorization() (a authorization, err error) {
	text, err := h.value("Authorization")
	if err != nil {
		return a, err
	}
	var fields string
	a.algorithm, fields, _ = strings.Cut(text, " ")
	known := false
	if a.scheme, known = schemes[a.algorithm]; !known {
		return a, fmt.Errorf("%w: %.40q (supported: %s)", ErrMethod, a.algorithm,
			strings.Join(slices.Sorted(maps.Keys(schemes)), ", "))
	}
	seen := make(map[string]string)
	for field := range strings.SplitSeq(fields, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(field), "=")
		if _, ok := seen[name]; ok || value == "" {
			return a, fmt.Errorf("%w: field %.40q of the Authorization header is empty or occurs twice", ErrIncomplete,
				name)
		}
		if seen[name] = value; len(seen) > 3 {
			return a, fmt.Errorf("%w: the Authorization header has more than three fields", ErrIncomplete)
		}
	}
	if strings.Count(seen["SignedHeaders"], ";") >= maxSignedHeaders {
		return a, fmt.Errorf("%w: the signature covers more than %d headers", ErrIncomplete, maxSignedHeaders)
	}
	parts := strings.SplitN(seen["Credential"], "/", 6) // one more than any scheme has
	a.accessKeyId, a.scope = parts[0], parts[1:]
	a.signedHeaders = strings.Split(seen["SignedHeaders"], ";")
	a.signature, err = hex.DecodeString(seen["Signature"])
	if len(seen) != 3 || a.accessKeyId == "" || len(a.scope) != a.scheme.scope || seen["SignedHeaders"] == "" ||
		err != nil || len(a.signature) != sha256.Size {
		return a, fmt.Errorf("%w: the Authorization header must have Credential, SignedHeaders and a Signature "+
			"of 64 hexadecimal digits", ErrIncomplete)
	}
	return a, nil
}

// maxSignedHeaders is the greatest number of headers that a signature covers. SDKs sign fewer than 20.
const maxSignedHeaders = 64

// signedHeaders returns the values of the headers that a signature covers.
func (h *Head) signedHeaders(names []string, contentHeader string) (map[string]string, error) {
	signed := make(map[string]string, len(names))
	for _, name := range names {
		if _, ok := signed[name]; ok || name != strings.ToLower(name) {
			return nil, fmt.Errorf("%w: SignedHeaders contains %q twice or not in lower case", ErrIncomplete, name)
		}
		value, err := h.value(name)
		if err != nil {
			return nil, err
		}
		signed[name] = value
	}
	for _, name := range append([]string{contentHeader}, requiredHeaders...) {
		if signed[name] == "" {
			return nil, fmt.Errorf("%w: the header %s must be present and signed", ErrIncomplete, name)
		}
	}
	return signed, nil
}

// writeCanonical writes the canonical request: the method, path, query, headers, header names and the
// body's hash.
func (h *Head) writeCanonical(w *bufio.Writer, p parameters) {
	auth := h.signature
	w.WriteString(h.method + "\n/\n")
	first := true
	for _, one := range p {
		if one.inForm {
			continue // the body's hash covers it
		}
		if !first {
			w.WriteByte('&')
		}
		first = false
		w.WriteString(one.name)
		if one.encoded == "" {
			w.WriteString(auth.scheme.empty)
			continue
		}
		w.WriteByte('=')
		escapedOnce.write(w, one)
	}
	w.WriteByte('\n')
	for _, name := range auth.signedHeaders {
		w.WriteString(name)
		w.WriteByte(':')
		w.WriteString(auth.headers[name])
		w.WriteByte('\n')
	}
	w.WriteByte('\n')
	w.WriteString(strings.Join(auth.signedHeaders, ";"))
	w.WriteByte('\n')
	w.WriteString(auth.headers[auth.scheme.contentHeader])
}
