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

func hexHash(h func() hash.Hash, data []byte) string {
	d := h()
	d.Write(data)
	return hex.EncodeToString(d.Sum(nil))
}

// requiredHeaders are the headers that a signature must cover besides the content header. Client
// versions differ in the other headers that they sign. The host is not required: the older Java SDK
// does not sign it, and signature version 1.0 never does.
var requiredHeaders = []string{"x-acs-action", "x-acs-version", "x-acs-date", "x-acs-signature-nonce"}

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
	if err := r.checkAction(r.parameters(nil)["Action"]); err != nil {
		return nil, err
	}
	date, err := parseTime("the header x-acs-date", headers["x-acs-date"])
	if err != nil {
		return nil, err
	}
	if len(auth.scope) > 0 && (auth.scope[0] != date.Format("20060102") || auth.scope[3] != "aliyun_v4_request") {
		return nil, fmt.Errorf("%w: the credential's scope must begin with the day of x-acs-date "+
			"and end with aliyun_v4_request", ErrIncomplete)
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
		// The signature covers only the body's hash, so the hash has to be checked, too.
		WrongBodyHash: wrongBody,
		toSign: func() string {
			canonical := r.canonical(s, auth.signedHeaders, headers, bodyHash)
			return auth.algorithm + "\n" + hexHash(s.hash, []byte(canonical))
		},
		verify: func(toSign, secret string) bool {
			want := sum(s.hash, s.derive(s.hash, secret, auth.scope), toSign)
			return hmac.Equal(want, auth.signature) && !wrongBody
		},
	}, nil
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

func parseAuthorization(r *Request) (a authorization, err error) {
	text, err := r.header("Authorization")
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
			return a, fmt.Errorf("%w: field %q of the Authorization header is empty or occurs twice", ErrIncomplete,
				name)
		}
		seen[name] = value
	}
	parts := strings.Split(seen["Credential"], "/")
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

// signedHeaders returns the values of the headers that a signature covers.
func (r *Request) signedHeaders(names []string, contentHeader string) (map[string]string, error) {
	signed := make(map[string]string, len(names))
	for _, name := range names {
		if _, ok := signed[name]; ok || name != strings.ToLower(name) {
			return nil, fmt.Errorf("%w: SignedHeaders contains %q twice or not in lower case", ErrIncomplete, name)
		}
		value, err := r.header(name)
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

// canonical returns the canonical request: the method, path, query, headers, header names and the
// body's hash.
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
