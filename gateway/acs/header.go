package acs

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"maps"
	"slices"
	"strings"

	"github.com/emmansun/gmsm/sm3"
)

// A scheme is one way to sign in the Authorization header.
type scheme struct {
	hash          func() hash.Hash // of all hashes and HMACs; 32 bytes
	contentHeader string           // carries the body's hash, in hexadecimal
	// derive makes the HMAC key of a secret and the credential's scope.
	derive func(h func() hash.Hash, secret string, scope []string) []byte
	scope  int // members of the scope that follow the AccessKeyId in Credential
	// empty is how a parameter without a value stands in the canonical query.
	empty string
}

// schemes are the ways that are understood. ACS3 with SM3 names its content
// header after SHA-256 all the same.
var schemes = map[string]scheme{
	"ACS3-HMAC-SHA256": {sha256.New, "x-acs-content-sha256", secretAsKey, 0, "="},
	"ACS3-HMAC-SM3":    {sm3.New, "x-acs-content-sha256", secretAsKey, 0, "="},
	"ACS4-HMAC-SHA256": {sha256.New, "x-acs-content-sha256", derivedKey, 4, ""},
}

func secretAsKey(_ func() hash.Hash, secret string, _ []string) []byte { return []byte(secret) }

// derivedKey chains HMACs over date, region, product and a constant. Clients
// compute the region of the endpoint in ways that differ, so the scope is taken
// as the credential names it: it is covered by the signature.
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

func hexHash(h func() hash.Hash, data []byte) string {
	d := h()
	d.Write(data)
	return hex.EncodeToString(d.Sum(nil))
}

// mustBeSigned are the headers, besides the content header, without which a
// signature would be worth nothing. What else a client signs differs from
// version to version. Even host is not among them: the older Java SDK does not
// sign it, and signature version 1.0 never does.
var mustBeSigned = []string{"x-acs-action", "x-acs-version", "x-acs-date", "x-acs-signature-nonce"}

// ParseHeader reads a claim from an Authorization header of the form
//
//	ACS3-HMAC-SHA256 Credential=<AccessKeyId>,SignedHeaders=<h1;h2;…>,Signature=<hex>
//
// or the same with ACS3-HMAC-SM3, or with ACS4-HMAC-SHA256 and a Credential of
// <AccessKeyId>/<yyyymmdd>/<region>/<product>/aliyun_v4_request.
func ParseHeader(r *Request) (*Claim, error) {
	auth, err := parseAuthorization(r)
	if err != nil {
		return nil, err
	}
	headers, err := r.signedHeaders(auth.signedHeaders, auth.scheme.contentHeader)
	if err != nil {
		return nil, err
	}
	if r.hasToken() {
		return nil, ErrToken
	}
	if err := r.sameAction(r.parameters(nil)["Action"]); err != nil {
		return nil, err
	}
	date, err := parseTime("the header x-acs-date", headers["x-acs-date"])
	if err != nil {
		return nil, err
	}
	if len(auth.scope) > 0 && (auth.scope[0] != date.Format("20060102") || auth.scope[3] != "aliyun_v4_request") {
		return nil, fmt.Errorf("%w: the credential's scope is not of the day of x-acs-date, or does not end with aliyun_v4_request", ErrIncomplete)
	}
	s := auth.scheme
	bodyHash := headers[s.contentHeader]
	wrongBody := !strings.EqualFold(bodyHash, hexHash(s.hash, r.Body))
	return &Claim{
		Protocol:    auth.algorithm,
		AccessKeyId: auth.accessKeyId,
		Action:      headers["x-acs-action"],
		Version:     headers["x-acs-version"],
		Nonce:       headers["x-acs-signature-nonce"],
		Time:        date,
		Parameters:  r.parameters(map[string]bool{"Action": true, "SecurityToken": true}),
		// The signature covers the body's hash, not the body.
		WrongBodyHash: wrongBody,
		toSign: func() string {
			return auth.algorithm + "\n" + hexHash(s.hash, []byte(r.canonical(s, auth.signedHeaders, headers, bodyHash)))
		},
		verify: func(toSign, secret string) bool {
			want := sum(s.hash, s.derive(s.hash, secret, auth.scope), toSign)
			return hmac.Equal(want, auth.signature) && !wrongBody
		},
	}, nil
}

// authorization is an Authorization header's parts.
type authorization struct {
	algorithm     string
	scheme        scheme
	accessKeyId   string
	scope         []string
	signedHeaders []string
	signature     []byte
}

func parseAuthorization(r *Request) (a authorization, err error) {
	text, err := r.header("Authorization")
	if err != nil {
		return a, err
	}
	var fields string
	a.algorithm, fields, _ = strings.Cut(text, " ")
	known := false
	if a.scheme, known = schemes[a.algorithm]; !known {
		return a, fmt.Errorf("%w: %.40q is not one of %v", ErrMethod, a.algorithm, slices.Sorted(maps.Keys(schemes)))
	}
	seen := make(map[string]string)
	for field := range strings.SplitSeq(fields, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(field), "=")
		if _, twice := seen[name]; twice || value == "" {
			return a, fmt.Errorf("%w: the Authorization header's %q is empty or there twice", ErrIncomplete, name)
		}
		seen[name] = value
	}
	parts := strings.Split(seen["Credential"], "/")
	a.accessKeyId, a.scope = parts[0], parts[1:]
	a.signedHeaders = strings.Split(seen["SignedHeaders"], ";")
	a.signature, err = hex.DecodeString(seen["Signature"])
	if len(seen) != 3 || a.accessKeyId == "" || len(a.scope) != a.scheme.scope || seen["SignedHeaders"] == "" || err != nil || len(a.signature) != sha256.Size {
		return a, fmt.Errorf("%w: the Authorization header needs Credential, SignedHeaders and a Signature of 64 hexadecimal digits", ErrIncomplete)
	}
	return a, nil
}

// signedHeaders collects the headers that a signature names.
func (r *Request) signedHeaders(names []string, contentHeader string) (map[string]string, error) {
	signed := make(map[string]string, len(names))
	for _, name := range names {
		if _, twice := signed[name]; twice || name != strings.ToLower(name) {
			return nil, fmt.Errorf("%w: SignedHeaders names %q twice or not in lower case", ErrIncomplete, name)
		}
		value, err := r.header(name)
		if err != nil {
			return nil, err
		}
		signed[name] = value
	}
	for _, name := range append([]string{contentHeader}, mustBeSigned...) {
		if signed[name] == "" {
			return nil, fmt.Errorf("%w: the header %s must be there and be signed", ErrIncomplete, name)
		}
	}
	return signed, nil
}

// canonical is the canonical request: method, path, query, headers, their
// names, the body's hash.
func (r *Request) canonical(s scheme, names []string, headers map[string]string, hash string) string {
	var b strings.Builder
	b.WriteString(r.Method + "\n/\n")
	for i, name := range slices.Sorted(maps.Keys(r.Query)) {
		if i > 0 {
			b.WriteByte('&')
		}
		if value := r.Query[name]; value != "" {
			b.WriteString(name + "=" + escape(value))
		} else {
			b.WriteString(name + s.empty)
		}
	}
	b.WriteByte('\n')
	for _, name := range names {
		b.WriteString(name + ":" + headers[name] + "\n")
	}
	b.WriteString("\n" + strings.Join(names, ";") + "\n" + hash)
	return b.String()
}
