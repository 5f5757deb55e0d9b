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
	hash    func() hash.Hash // for all hashes and HMACs; 32 bytes
	hashers hashers          // of hash
	mac     macKind          // the HMAC that signs
	scope   int              // the number of scope elements after the AccessKeyId in Credential
	// empty follows the name of a parameter without a value in the canonical query.
	empty string
}

func newScheme(newHash func() hash.Hash, mac macKind, scope int, empty string) *scheme {
	s := &scheme{hash: newHash, mac: mac, scope: scope, empty: empty}
	s.hashers.New = func() any { return newHasher(newHash()) }
	return s
}

// contentHeader is the header with the body's hash, in hexadecimal. ACS3 with SM3 also uses this header,
// although it is named after SHA-256.
const contentHeader = "x-acs-content-sha256"

// schemes are the supported schemes.
var schemes = map[string]*scheme{
	"ACS3-HMAC-SHA256": newScheme(sha256.New, sha256MAC, 0, "="),
	"ACS3-HMAC-SM3":    newScheme(sm3.New, sm3MAC, 0, "="),
	"ACS4-HMAC-SHA256": newScheme(sha256.New, derivedMAC, 4, ""),
}

// derivedKey chains HMACs over date, region, product and a constant. Clients derive the region from
// the endpoint in different ways, so derivedKey uses the scope in the credential. The signature
// covers it.
func derivedKey(h func() hash.Hash, secret string, scope []string) []byte {
	key := []byte("aliyun_v4" + secret)
	for _, part := range scope {
		mac := hmac.New(h, key)
		mac.Write([]byte(part))
		key = mac.Sum(nil)
	}
	return key
}

// requiredHeaders are the headers that a signature must cover. Client versions differ in the other
// headers that they sign. The host is not required: the older Java SDK does not sign it, and signature
// version 1.0 never does.
var requiredHeaders = []string{contentHeader, "x-acs-action", "x-acs-version", "x-acs-date", "x-acs-signature-nonce"}

// A headerSignature is the signature in an Authorization header, with the headers that it covers.
type headerSignature struct {
	authorization
	headers pairs     // in the order of SignedHeaders, with names in lower case
	date    time.Time // of x-acs-date
}

// pairs are names with values, in the order in which a request has them. They are few, so a search takes less time
// than making a map.
type pairs []pair

type pair struct{ name, value string }

// find returns the value of a name, and whether the name is there.
func (all pairs) find(name string) (value string, ok bool) {
	for _, one := range all {
		if one.name == name {
			return one.value, true
		}
	}
	return "", false
}

// get returns the value of a name, or "" if the name is not there.
func (all pairs) get(name string) string {
	value, _ := all.find(name)
	return value
}

// readSignature reads the signature from an Authorization header of the form
//
//	ACS3-HMAC-SHA256 Credential=<AccessKeyId>,SignedHeaders=<h1;h2;…>,Signature=<hex>
//
// or the same with ACS3-HMAC-SM3, or with ACS4-HMAC-SHA256 and a Credential of
// <AccessKeyId>/<yyyymmdd>/<region>/<product>/aliyun_v4_request.
func (h *Head) readSignature() (err error) {
	s := &h.signature
	if s.authorization, err = h.parseAuthorization(); err != nil {
		return err
	}
	if s.headers, err = h.readSigned(s.signedHeaders); err != nil {
		return err
	}
	if err := checkNonce(s.headers.get("x-acs-signature-nonce")); err != nil {
		return err
	}
	if h.hasToken() {
		return ErrToken
	}
	if s.date, err = parseTime("the header x-acs-date", s.headers.get("x-acs-date")); err != nil {
		return err
	}
	if len(s.scope) > 0 && (s.scope[0] != s.date.Format("20060102") || s.scope[3] != "aliyun_v4_request") {
		return fmt.Errorf("%w: the credential's scope must begin with the day of x-acs-date "+
			"and end with aliyun_v4_request", ErrIncomplete)
	}
	return nil
}

// headerClaim returns the claim of a request with a header signature.
func (h *Head) headerClaim() (*Claim, error) {
	if h.parameters.get("SecurityToken") != "" {
		return nil, ErrToken
	}
	if err := h.checkAction(h.parameters); err != nil {
		return nil, err
	}
	s := &h.signature
	return &Claim{
		Protocol:    s.algorithm,
		AccessKeyId: s.accessKeyId,
		Action:      s.headers.get("x-acs-action"),
		Version:     s.headers.get("x-acs-version"),
		Nonce:       s.headers.get("x-acs-signature-nonce"),
		Time:        s.date,
		signed:      signedByHeader{h},
	}, nil
}

// signedByHeader is a request with a header signature.
type signedByHeader struct{ *Head }

func (r signedByHeader) decoded() map[string]string {
	return r.parameters.decoded(func(name string) bool { return name == "Action" || name == "SecurityToken" })
}

func (r signedByHeader) toSign() string {
	sum := r.canonicalHash()
	return r.signature.algorithm + "\n" + hex.EncodeToString(sum[:])
}

func (r signedByHeader) verify(secret *Secret) (valid, wrongBody bool) {
	s := &r.signature
	canonical := r.canonicalHash()
	toSign := func(w *bufio.Writer) {
		w.WriteString(s.algorithm)
		w.WriteByte('\n')
		_, _ = w.Write(hex.AppendEncode(w.AvailableBuffer(), canonical[:]))
	}
	if s.scheme.mac == derivedMAC {
		mac := newHasher(hmac.New(s.scheme.hash, derivedKey(s.scheme.hash, secret.text, s.scope)))
		valid = hmac.Equal(mac.sum(toSign), s.signature[:])
	} else {
		valid = secret.verify(s.scheme.mac, s.signature[:], toSign)
	}
	if !valid {
		return false, false
	}
	// The signature covers only the body's hash, so the hash has to be checked, too. Nobody
	// without the secret makes the gateway compute it.
	var signed [sha256.Size]byte
	ok := decodeHex(signed[:], s.headers.get(contentHeader))
	wrongBody = !ok || signed != s.scheme.hashers.sum(func(w *bufio.Writer) { w.WriteString(r.body) })
	return !wrongBody, wrongBody
}

// An authorization holds the parts of an Authorization header.
type authorization struct {
	algorithm     string
	scheme        *scheme // nil if there is no Authorization header
	accessKeyId   string
	scope         []string
	signedHeaders string // names, separated by semicolons
	signature     [sha256.Size]byte
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
	seen := make(pairs, 0, 3)
	for field := range strings.SplitSeq(fields, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(field), "=")
		if _, found := seen.find(name); found || value == "" {
			return a, fmt.Errorf("%w: field %.40q of the Authorization header is empty or occurs twice", ErrIncomplete,
				name)
		}
		if seen = append(seen, pair{name, value}); len(seen) > 3 {
			return a, fmt.Errorf("%w: the Authorization header has more than three fields", ErrIncomplete)
		}
	}
	a.signedHeaders = seen.get("SignedHeaders")
	if strings.Count(a.signedHeaders, ";") >= maxSignedHeaders {
		return a, fmt.Errorf("%w: the signature covers more than %d headers", ErrIncomplete, maxSignedHeaders)
	}
	accessKeyId, scope, scoped := strings.Cut(seen.get("Credential"), "/")
	if a.accessKeyId = accessKeyId; scoped {
		a.scope = strings.SplitN(scope, "/", 5) // one more than any scheme has
	}
	if !decodeHex(a.signature[:], seen.get("Signature")) || a.accessKeyId == "" || len(a.scope) != a.scheme.scope ||
		a.signedHeaders == "" {
		return a, fmt.Errorf("%w: the Authorization header must have Credential, SignedHeaders and a Signature "+
			"of 64 hexadecimal digits", ErrIncomplete)
	}
	return a, nil
}

// maxSignedHeaders is the greatest number of headers that a signature covers. SDKs sign fewer than 20.
const maxSignedHeaders = 64

// readSigned returns the headers that a signature covers. Their names are separated by semicolons.
func (h *Head) readSigned(names string) (pairs, error) {
	signed := make(pairs, 0, strings.Count(names, ";")+1)
	for name := range strings.SplitSeq(names, ";") {
		if _, found := signed.find(name); found || name != strings.ToLower(name) {
			return nil, fmt.Errorf("%w: SignedHeaders contains %q twice or not in lower case", ErrIncomplete, name)
		}
		value, err := h.value(name)
		if err != nil {
			return nil, err
		}
		signed = append(signed, pair{name, value})
	}
	for _, name := range requiredHeaders {
		if signed.get(name) == "" {
			return nil, fmt.Errorf("%w: the header %s must be present and signed", ErrIncomplete, name)
		}
	}
	return signed, nil
}

// canonicalHash returns the hash of the canonical request. The request is hashed as it is written, so that it
// is never in memory as a whole.
func (h *Head) canonicalHash() [sha256.Size]byte {
	return h.signature.scheme.hashers.sum(h.writeCanonical)
}

// writeCanonical writes the canonical request: the method, path, query, headers, header names and the
// body's hash.
func (h *Head) writeCanonical(w *bufio.Writer) {
	auth := &h.signature
	w.WriteString(h.method)
	w.WriteString("\n/\n")
	first := true
	for _, one := range h.parameters {
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
	for _, header := range auth.headers {
		w.WriteString(header.name)
		w.WriteByte(':')
		w.WriteString(header.value)
		w.WriteByte('\n')
	}
	w.WriteByte('\n')
	w.WriteString(auth.signedHeaders)
	w.WriteByte('\n')
	w.WriteString(auth.headers.get(contentHeader))
}
