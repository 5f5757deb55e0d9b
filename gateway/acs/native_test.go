package acs_test

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kmsgate/kmsgate/gateway/acs"
)

const clientKeyId = "KAAP.00000000-1111-2222-3333-444444444444"

// clientKey returns the public key of the client key that signed the vectors.
func clientKey(t testing.TB) *rsa.PublicKey {
	t.Helper()
	text, err := os.ReadFile("testdata/dkms-client-public-key.pem")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key.(*rsa.PublicKey)
}

func readNative(t testing.TB, raw []byte) (*http.Request, []byte) {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r, body
}

// nativeVectors returns the requests that the KMS Instance SDK and the transfer SDK sent.
func nativeVectors(t testing.TB) (all []vector) {
	t.Helper()
	for _, v := range vectors(t) {
		if v.Protocol == "DKMS-GCS" {
			all = append(all, v)
		}
	}
	return all
}

// TestNativeVectors replays the native requests of official clients.
func TestNativeVectors(t *testing.T) {
	key := clientKey(t)
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	all := nativeVectors(t)
	if len(all) < 24 {
		t.Errorf("got %d vectors, want at least 24", len(all))
	}
	for i, v := range all {
		r, body := readNative(t, v.Raw)
		claim, err := acs.ParseNative(r)
		if err != nil {
			t.Errorf("vector %d (%s): got %v, want nil", i, v.Name, err)
			continue
		}
		if diff := cmp.Diff(v.StringToSign, claim.StringToSign()); diff != "" {
			t.Errorf("vector %d (%s): string to sign: %s", i, v.Name, diff)
		}
		if claim.AccessKeyId != clientKeyId || claim.Version != "dkms-gcs-0.2" || claim.Action == "" ||
			claim.Time.IsZero() || claim.Protocol != acs.NativeProtocol {
			t.Errorf("vector %d (%s): got %+v, want all fields of %s", i, v.Name, claim, clientKeyId)
		}
		if !acs.IsNative(r.Header) || !claim.VerifyKey(key) || !claim.Covers(body) {
			t.Errorf("vector %d (%s): IsNative, VerifyKey or Covers: got false, want true", i, v.Name)
		}
		if claim.VerifyKey(&other.PublicKey) || claim.VerifySecret(acs.NewSecret("")) || claim.Covers(append(body, 0)) {
			t.Errorf("vector %d (%s): another key, a secret or another body: got true, want false", i, v.Name)
		}
	}
}

// TestNativeClaim changes the first vector's headers one at a time without signing the request
// again. The signature must no longer verify, or the error must name the invalid header.
func TestNativeClaim(t *testing.T) {
	key := clientKey(t)
	for _, test := range []struct {
		name   string
		change func(h http.Header)
		want   string // the error's text; empty if only the signature must not verify
	}{
		{"action", func(h http.Header) { h.Set("x-kms-apiname", "Verify") }, ""},
		{"version", func(h http.Header) { h.Set("x-kms-apiversion", "dkms-gcs-0.3") }, ""},
		{"key version",
			func(h http.Header) { h.Set("x-kms-migrationkeyversionid", "2ab1a983-7072-4bbc-a582-584b5bd80001") }, ""},
		{"no key version", func(h http.Header) { h.Del("x-kms-migrationkeyversionid") }, ""},
		{"added header", func(h http.Header) { h.Set("x-kms-more", "") }, ""},
		{"date", func(h http.Header) { h.Set("Date", "Sat, 21 Nov 2026 20:56:41 GMT") }, ""},
		{"hash", func(h http.Header) { h.Set("content-sha256", strings.Repeat("0", 64)) }, ""},
		{"content type", func(h http.Header) { h.Set("Content-Type", "application/x-protobuf;x") }, ""},
		{"client key", func(h http.Header) { h.Set("x-kms-acccesskeyid", "KAAP.1") }, ""},
		{"signature", func(h http.Header) { h.Set("Authorization", "Bearer AAAA") }, ""},
		{"no signature", func(h http.Header) { h.Del("Authorization") }, "The Param Authorization is invalid."},
		{"empty signature", func(h http.Header) { h.Set("Authorization", "Bearer ") },
			"The Param Authorization is invalid."},
		{"two signatures", func(h http.Header) { h.Add("Authorization", h.Get("Authorization")) },
			"The Param Authorization is invalid."},
		{"other scheme", func(h http.Header) {
			h.Set("Authorization", strings.Replace(h.Get("Authorization"), "Bearer", "TOKEN", 1))
		}, "The Param Authorization is invalid."},
		{"no Base64", func(h http.Header) { h.Set("Authorization", "Bearer ?") },
			"The Param Authorization is invalid."},
		{"no date", func(h http.Header) { h.Del("Date") }, "The Param Date is invalid."},
		{"date of another form", func(h http.Header) { h.Set("Date", "2026-11-21T20:56:40Z") },
			"The Param Date is invalid."},
		{"wrong weekday", func(h http.Header) { h.Set("Date", "Sun, 21 Nov 2026 20:56:40 GMT") },
			"The Param Date is invalid."},
		{"two dates", func(h http.Header) { h.Add("Date", h.Get("Date")) }, "The Param Date is invalid."},
		{"no method", func(h http.Header) { h.Del("x-kms-signaturemethod") },
			"The Param x-kms-signaturemethod is invalid."},
		{"other method", func(h http.Header) { h.Set("x-kms-signaturemethod", "HMAC") },
			`The Param x-kms-signaturemethod is invalid. message:"HMAC".`},
		{"two names", func(h http.Header) { h.Add("x-kms-apiname", "Verify") }, "The Param x-kms-apiname is invalid."},
		{"no client key", func(h http.Header) { h.Del("x-kms-acccesskeyid") }, acs.ErrNoClientKey.Error()},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, _ := readNative(t, nativeVectors(t)[0].Raw)
			test.change(r.Header)
			claim, err := acs.ParseNative(r)
			switch {
			case test.want == "" && (err != nil || claim.VerifyKey(key)):
				t.Errorf("got %v or a valid signature, want a claim with an invalid signature", err)
			case test.want != "" && (err == nil || err.Error() != test.want):
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
	r, _ := readNative(t, nativeVectors(t)[0].Raw)
	r.Method = http.MethodGet
	if claim, err := acs.ParseNative(r); err != nil || claim.VerifyKey(key) {
		t.Errorf("another method: got %v or a valid signature, want a claim with an invalid signature", err)
	}
	r.URL.RawQuery = "Action=Sign"
	if _, err := acs.ParseNative(r); !errors.Is(err, acs.ErrParameters) {
		t.Errorf("a query: got %v, want ErrParameters", err)
	}
}

// FuzzNative signs arbitrary headers as documented and parses them. The signature must verify, and
// must no longer verify after a change.
func FuzzNative(f *testing.F) {
	private, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("Sign", "dkms-gcs-0.2", "", "x", []byte("body"))
	f.Add("", " ", "2ab1a983-7072-4bbc-a582-584b5bd80000", "", []byte{})
	f.Fuzz(func(t *testing.T, name, version, keyVersion, unknown string, body []byte) {
		r, err := http.NewRequest(http.MethodPost, "/", nil)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(body)
		const date = "Sat, 21 Nov 2026 20:56:40 GMT"
		for header, value := range map[string]string{
			"content-sha256":              fmt.Sprintf("%X", sum),
			"Content-Type":                acs.NativeContentType,
			"Date":                        date,
			"x-kms-acccesskeyid":          clientKeyId,
			"x-kms-apiname":               name,
			"x-kms-apiversion":            version,
			"x-kms-migrationkeyversionid": keyVersion,
			"x-kms-zz":                    unknown,
			"x-kms-signaturemethod":       "RSA_PKCS1_SHA_256",
		} {
			r.Header.Set(header, value)
		}
		toSign := fmt.Sprintf("POST\n%X\n%s\n%s\nx-kms-acccesskeyid:%s\nx-kms-apiname:%s\nx-kms-apiversion:%s\n"+
			"x-kms-migrationkeyversionid:%s\nx-kms-signaturemethod:RSA_PKCS1_SHA_256\nx-kms-zz:%s\n/",
			sum, acs.NativeContentType, date, clientKeyId, strings.TrimSpace(name), strings.TrimSpace(version),
			strings.TrimSpace(keyVersion), strings.TrimSpace(unknown))
		digest := sha256.Sum256([]byte(toSign))
		signature, err := rsa.SignPKCS1v15(rand.Reader, private, crypto.SHA256, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+base64.StdEncoding.EncodeToString(signature))
		claim, err := acs.ParseNative(r)
		if err != nil || !claim.VerifyKey(&private.PublicKey) || !claim.Covers(body) {
			t.Fatalf("signed request: got %v or an invalid signature, want a valid one", err)
		}
		r.Header.Set("x-kms-zz", unknown+"x")
		if claim, err = acs.ParseNative(r); err != nil || claim.VerifyKey(&private.PublicKey) {
			t.Fatalf("changed request: got %v or a valid signature, want an invalid one", err)
		}
	})
}
