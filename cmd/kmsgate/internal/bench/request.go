package bench

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/kmsgate/kmsgate/gateway/apiclient"
)

// A signedRequest makes requests that differ only in their time and nonce, as HTTP/1.1. They have the
// parameters in the query, and the signature ACS3-HMAC-SHA256, as the SDKs send them. Making one costs a
// tenth of what a general client spends, which matters when client and server share a machine. A test
// has package acs verify the signatures.
type signedRequest struct {
	// The request is start, the date, nonceHeader, the nonce, authorization and the signature. The
	// canonical request, whose hash is signed, is canonicalStart, the date, nonceLine, the nonce and
	// canonicalEnd.
	start, authorization         string
	canonicalStart, canonicalEnd string
	noncePrefix                  string
	count                        uint64
	mac                          hash.Hash
	buffer                       []byte
}

const (
	nonceHeader = "\r\nx-acs-signature-nonce: "
	nonceLine   = "\nx-acs-signature-nonce:"
	signedNames = "host;x-acs-action;x-acs-content-sha256;x-acs-date;x-acs-signature-nonce;x-acs-version"
	algorithm   = "ACS3-HMAC-SHA256"
	version     = "2016-01-20"
	dateLayout  = "2006-01-02T15:04:05Z"
)

// newSignedRequest returns the requests of an operation to a host, as its URL names it.
func newSignedRequest(cfg apiclient.Config, host, action string, parameters map[string]string) *signedRequest {
	values := make(url.Values)
	for name, value := range parameters {
		values.Set(name, value)
	}
	query := strings.ReplaceAll(values.Encode(), "+", "%20")
	empty := hex.EncodeToString(sha256.New().Sum(nil)) // the hash of the empty body
	return &signedRequest{
		start: "POST /?" + query + " HTTP/1.1\r\nHost: " + host + "\r\nContent-Length: 0\r\nAccept: application/json\r\n" +
			"User-Agent: kmsgate-bench\r\nx-acs-action: " + action + "\r\nx-acs-version: " + version +
			"\r\nx-acs-content-sha256: " + empty + "\r\nx-acs-date: ",
		authorization: "\r\nAuthorization: " + algorithm + " Credential=" + cfg.AccessKeyId + ",SignedHeaders=" + signedNames + ",Signature=",
		canonicalStart: "POST\n/\n" + query + "\nhost:" + host + "\nx-acs-action:" + action +
			"\nx-acs-content-sha256:" + empty + "\nx-acs-date:",
		canonicalEnd: "\nx-acs-version:" + version + "\n\n" + signedNames + "\n" + empty,
		noncePrefix:  rand.Text() + "-",
		mac:          hmac.New(sha256.New, []byte(cfg.AccessKeySecret)),
	}
}

// next returns the next request. It is valid until the next call.
func (s *signedRequest) next(now time.Time) []byte {
	s.count++
	var dateBuffer [len(dateLayout)]byte
	var nonceBuffer [48]byte
	date := now.UTC().AppendFormat(dateBuffer[:0], dateLayout)
	nonce := strconv.AppendUint(append(nonceBuffer[:0], s.noncePrefix...), s.count, 10)

	b := append(append(s.buffer[:0], s.canonicalStart...), date...)
	b = append(append(append(b, nonceLine...), nonce...), s.canonicalEnd...)
	canonical := sha256.Sum256(b)
	s.mac.Reset()
	s.mac.Write(hex.AppendEncode(append(b[:0], algorithm+"\n"...), canonical[:]))
	var sum [sha256.Size]byte
	signature := s.mac.Sum(sum[:0])

	b = append(append(b[:0], s.start...), date...)
	b = append(append(append(b, nonceHeader...), nonce...), s.authorization...)
	s.buffer = append(hex.AppendEncode(b, signature), "\r\n\r\n"...)
	return s.buffer
}
