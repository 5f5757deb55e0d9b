package acs

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
)

const acs3 = "ACS3-HMAC-SHA256"

// mustBeSigned are the headers without which a signature would be worth
// nothing. What else a client signs differs from version to version.
var mustBeSigned = []string{"host", "x-acs-action", "x-acs-version", "x-acs-date", "x-acs-signature-nonce", "x-acs-content-sha256"}

// ParseACS3 reads a claim from an Authorization header of the form
//
//	ACS3-HMAC-SHA256 Credential=<AccessKeyId>,SignedHeaders=<h1;h2;…>,Signature=<hex>
func ParseACS3(r *Request) (*Claim, error) {
	auth, err := parseAuthorization(r)
	if err != nil {
		return nil, err
	}
	headers, err := r.signedHeaders(auth.signedHeaders)
	if err != nil {
		return nil, err
	}
	if auth.algorithm != acs3 {
		return nil, fmt.Errorf("%w: %q is not %s", ErrMethod, auth.algorithm, acs3)
	}
	if len(r.Header.Values("X-Acs-Security-Token")) > 0 {
		return nil, ErrToken
	}
	if err := r.sameAction(r.parameters(nil)["Action"]); err != nil {
		return nil, err
	}
	date, err := parseTime(headers["x-acs-date"])
	if err != nil {
		return nil, err
	}
	hash := headers["x-acs-content-sha256"]
	canonical := sha256.Sum256([]byte(r.canonicalACS3(auth.signedHeaders, headers, hash)))
	toSign := acs3 + "\n" + hex.EncodeToString(canonical[:])
	body := sha256.Sum256(r.Body)
	return &Claim{
		Protocol:     acs3,
		AccessKeyId:  auth.credential,
		Action:       headers["x-acs-action"],
		Version:      headers["x-acs-version"],
		Nonce:        headers["x-acs-signature-nonce"],
		Time:         date,
		StringToSign: toSign,
		Parameters:   r.parameters(map[string]bool{"Action": true}),
		verify: func(secret string) bool {
			mac := hmac.New(sha256.New, []byte(secret))
			mac.Write([]byte(toSign))
			// The signature covers the body's hash, not the body.
			return hmac.Equal(mac.Sum(nil), auth.signature) && strings.EqualFold(hash, hex.EncodeToString(body[:]))
		},
	}, nil
}

// authorization is an Authorization header's parts.
type authorization struct {
	algorithm     string
	credential    string
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
	if !strings.HasPrefix(a.algorithm, "ACS") {
		return a, fmt.Errorf("%w: %q is not %s", ErrMethod, a.algorithm, acs3)
	}
	seen := make(map[string]string)
	for field := range strings.SplitSeq(fields, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(field), "=")
		if _, twice := seen[name]; twice || value == "" {
			return a, fmt.Errorf("%w: the Authorization header's %q is empty or there twice", ErrIncomplete, name)
		}
		seen[name] = value
	}
	a.credential = seen["Credential"]
	a.signedHeaders = strings.Split(seen["SignedHeaders"], ";")
	a.signature, err = hex.DecodeString(seen["Signature"])
	if a.credential == "" || seen["SignedHeaders"] == "" || err != nil || len(a.signature) != sha256.Size {
		return a, fmt.Errorf("%w: the Authorization header needs Credential, SignedHeaders and a Signature of 64 hexadecimal digits", ErrIncomplete)
	}
	return a, nil
}

// signedHeaders collects the headers that a signature names.
func (r *Request) signedHeaders(names []string) (map[string]string, error) {
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
	for _, name := range mustBeSigned {
		if signed[name] == "" {
			return nil, fmt.Errorf("%w: the header %s must be there and be signed", ErrIncomplete, name)
		}
	}
	return signed, nil
}

// canonicalACS3 is the canonical request: method, path, query, headers, their
// names, the body's hash.
func (r *Request) canonicalACS3(names []string, headers map[string]string, hash string) string {
	var b strings.Builder
	b.WriteString(r.Method + "\n/\n")
	for i, name := range slices.Sorted(maps.Keys(r.Query)) {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(name + "=" + escape(r.Query[name]))
	}
	b.WriteByte('\n')
	for _, name := range names {
		b.WriteString(name + ":" + headers[name] + "\n")
	}
	b.WriteString("\n" + strings.Join(names, ";") + "\n" + hash)
	return b.String()
}
