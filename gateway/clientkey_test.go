package gateway_test

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/pkcs12"

	"github.com/kmsgate/kmsgate/gateway"
)

// openClientKey reads PrivateKeyData as KMS's instance SDK for Go does, which relies on the order
// of the blocks.
func openClientKey(t *testing.T, data, password string) (*x509.Certificate, *rsa.PrivateKey) {
	t.Helper()
	pfx, err := base64.StdEncoding.DecodeString(data)
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := pkcs12.ToPEM(pfx, password)
	if err != nil || len(blocks) != 2 || blocks[0].Type != "CERTIFICATE" || blocks[1].Type != "PRIVATE KEY" {
		t.Fatalf("got %d blocks, %v, want a certificate and a private key", len(blocks), err)
	}
	certificate, err := x509.ParseCertificate(blocks[0].Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.ParsePKCS1PrivateKey(blocks[1].Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if !key.PublicKey.Equal(certificate.PublicKey) || key.N.BitLen() != 2048 {
		t.Errorf("got a private key of %d bits, want 2048 bits and the one of the certificate", key.N.BitLen())
	}
	return certificate, key
}

// TestClientKey creates a client key and checks its file and the answers of the operations on it.
func TestClientKey(t *testing.T) {
	const password = "~!@#$%^&*?_-pass"
	b := newBench(t)
	b.accessPoint("app")
	made := b.want(b.do(b.root, "CreateClientKey", "AapName", "app", "Password", password), 200, "")
	id, _ := made.Body["ClientKeyId"].(string)
	if e, _ := b.auditLine(made.RequestId); e.Subject != "app/"+id {
		t.Errorf("CreateClientKey: got audit line for %q, want %q", e.Subject, "app/"+id)
	}
	if made.Body["KeyAlgorithm"] != "RSA_2048" || made.Body["NotBefore"] != "2026-11-21T20:56:37Z" || made.Body["NotAfter"] != "2031-11-21T20:56:37Z" {
		t.Errorf("CreateClientKey: got %v, want RSA_2048 for five years", made.Body)
	}
	data := made.Body["PrivateKeyData"].(string)
	certificate, _ := openClientKey(t, data, password)
	if c := certificate; c.Subject.CommonName != id || !strings.HasPrefix(id, "KAAP.") || len(id) != 41 || c.SerialNumber.BitLen() < 64 ||
		!slices.Equal(c.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) || !c.NotBefore.Equal(b.clock.Now()) || !c.NotAfter.Equal(b.clock.Now().AddDate(5, 0, 0)) {
		t.Errorf("got certificate %+v, want one of %s for client authentication for five years", c, id)
	}
	if err := certificate.CheckSignature(certificate.SignatureAlgorithm, certificate.RawTBSCertificate, certificate.Signature); err != nil {
		t.Errorf("the certificate's signature: %v", err)
	}
	pfx, _ := base64.StdEncoding.DecodeString(data)
	if _, err := pkcs12.ToPEM(pfx, password+"x"); err == nil {
		t.Error("another password opens the file")
	}
	b.want(b.do(b.root, "CreateClientKey", "AapName", "app", "Password", password, "DryRun", "true"),
		400, "DryRunOperationError")
	want := object{"AapName": "app", "ClientKeyId": id, "CreateTime": "2026-11-21T20:56:37Z", "KeyAlgorithm": "RSA_2048", "KeyOrigin": "KMS_PROVIDED",
		"NotAfter": "2031-11-21T20:56:37Z", "NotBefore": "2026-11-21T20:56:37Z", "PublicKeyData": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}))}
	b.shows(want, "GetClientKey", "ClientKeyId", id)
	b.shows(object{"ClientKeys": []any{want}}, "ListClientKeys", "AapName", "app")
	b.shows(object{"ClientKeys": []any{want}}, "ListClientKeys")
	b.accessPoint("other")
	b.shows(object{"ClientKeys": []any{}}, "ListClientKeys", "AapName", "other")
	b.shows(object{}, "DeleteClientKey", "ClientKeyId", id)
	b.want(b.do(b.root, "DeleteClientKey", "ClientKeyId", id), 404, "Forbidden.ResourceNotFound")
	b.shows(object{"ClientKeys": []any{}}, "ListClientKeys")
}

// TestClientKeyOpenSSL opens the file of a client key with OpenSSL.
func TestClientKeyOpenSSL(t *testing.T) {
	b := newBench(t)
	b.accessPoint("app")
	made := b.want(b.do(b.root, "CreateClientKey", "AapName", "app", "Password", "password1"), 200, "")
	pfx, err := base64.StdEncoding.DecodeString(made.Body["PrivateKeyData"].(string))
	if err != nil {
		t.Fatal(err)
	}
	openssl := exec.Command("openssl", "pkcs12", "-legacy", "-info", "-nodes", "-passin", "pass:password1")
	openssl.Stdin = bytes.NewReader(pfx)
	out, err := openssl.CombinedOutput()
	text := string(out)
	if err != nil || strings.Count(text, "BEGIN CERTIFICATE") != 1 || strings.Count(text, "BEGIN PRIVATE KEY") != 1 ||
		strings.Index(text, "BEGIN CERTIFICATE") > strings.Index(text, "BEGIN PRIVATE KEY") || !strings.Contains(text, "MAC: sha1, Iteration 10000") || !strings.Contains(text, "pbeWithSHA1And3-KeyTripleDES-CBC, Iteration 10000") || strings.Contains(text, "friendlyName") {
		t.Errorf("openssl pkcs12: got %v, %s, want a certificate followed by a private key, with 10,000 iterations",
			err, text)
	}
}

// TestClientKeySecrets checks that the gateway writes the password and the private key nowhere.
func TestClientKeySecrets(t *testing.T) {
	const password = "correct-horse-1"
	var log bytes.Buffer
	b := newBench(t, func(c *gateway.Config) {
		c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	b.accessPoint("app")
	made := b.want(b.do(b.root, "CreateClientKey", "AapName", "app", "Password", password), 200, "")
	data := made.Body["PrivateKeyData"].(string)
	_, key := openClientKey(t, data, password)
	refused := b.do(b.root, "CreateClientKey", "AapName", "none", "Password", password)
	weak := b.want(b.do(b.root, "CreateClientKey", "AapName", "app", "Password", "weakling"), 400, "InvalidParameter")
	b.want(b.do(b.root, "CreateClientKey", "AapName", "app", "Password", password, "DryRun", "true"),
		400, "DryRunOperationError")
	// The & in this password was not escaped.
	torn := b.want(b.send("GET", "/?"+b.sign(b.root, "GET", "CreateClientKey", params("AapName", "app")).Encode()+"&Password=abc&second!half", nil), 400, "ParseRequestParameterException")
	b.stop()
	all := log.String() + refused.Message + weak.Message + torn.Message
	for _, name := range []string{"db", "audit.log"} {
		content, err := os.ReadFile(filepath.Join(b.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		all += string(content)
	}
	der := x509.MarshalPKCS1PrivateKey(key)
	for name, secret := range map[string]string{
		"password": password, "refused password": "weakling", "half a password": "second!half", "file": data[len(data)/2 : len(data)/2+40], "private exponent": string(key.D.Bytes()),
		"prime": string(key.Primes[0].Bytes()), "private key in Base64": base64.StdEncoding.EncodeToString(der)[600:640],
	} {
		if strings.Contains(all, secret) {
			t.Errorf("the gateway wrote the %s", name)
		}
	}
	if !strings.Contains(all, "CreateClientKey") {
		t.Error("the files have no trace of CreateClientKey, so the test proves nothing")
	}
}

func TestClientKeyPasswords(t *testing.T) {
	b := newBench(t)
	b.accessPoint("app")
	for password, ok := range map[string]bool{
		"password1":                      true,
		"1234567_":                       true,
		"abcdefg~":                       true,
		"~!@#$%^&*?_-1":                  true,
		"passwor1":                       true,
		"PASSWORD9":                      true,
		strings.Repeat("a1", 32):         true,
		strings.Repeat("a1", 32) + "b":   false,
		"passwo1":                        false,
		"password":                       false,
		"PASSword":                       false, // all letters are of one kind
		"12345678":                       false,
		"-_?*&^%$#@!~":                   false,
		"password 1":                     false,
		"password1\n":                    false,
		"password1é":                     false,
		"password1(":                     false,
		"password1\x00":                  false,
		"пароль12345":                    false,
		"password1\xff":                  false,
		strings.Repeat("a1", 100_000):    false,
		"%s%d%!v(MISSING)1":              false,
		"password1'; DROP TABLE keys;--": false,
	} {
		a := b.do(b.root, "CreateClientKey", "AapName", "app", "Password", password, "DryRun", "true")
		if want := map[bool]string{true: "DryRunOperationError", false: "ValidationError"}[ok]; a.Code != want || strings.Contains(a.Message, password) {
			t.Errorf("password %.40q: got %s %q, want %s", password, a.Code, a.Message, want)
		}
	}
}

// TestClientKeyValidity checks that NotBefore and NotAfter are given both or neither, and that
// NotAfter is in the future.
func TestClientKeyValidity(t *testing.T) {
	b := newBench(t) // at 2026-11-21T20:56:37Z
	b.accessPoint("app")
	b.clock.move(500 * time.Millisecond)
	ask := func(notBefore, notAfter string) answer {
		return b.do(b.root, "CreateClientKey", "AapName", "app", "Password", "password1", "NotBefore", notBefore, "NotAfter", notAfter)
	}
	for _, tc := range []struct{ notBefore, notAfter string }{
		{"2026-11-21T20:56:37Z", ""}, {"", "2031-11-21T20:56:37Z"}, {"2026-11-21T20:56:38Z", "2026-11-21T20:56:38Z"}, {"2030-01-01T00:00:00Z", "2029-01-01T00:00:00Z"},
		{"2020-01-01T00:00:00Z", "2026-11-21T20:56:37Z"}, {"2026-11-21", "2031-11-21"}, {"2026-11-21T20:56:37+08:00", "2031-11-21T20:56:37Z"},
		{"2026-11-21T20:56:37.5Z", "2031-11-21T20:56:37Z"}, {"2026-02-30T00:00:00Z", "2031-11-21T20:56:37Z"}, {"0001-01-01T00:00:00Z", "2031-11-21T20:56:37Z"},
		{"2026-11-21T20:56:37Z", "12031-11-21T20:56:37Z"}, {"now", "never"}, {"2026-11-21 20:56:37", "2031-11-21T20:56:37Z"},
	} {
		a := b.want(ask(tc.notBefore, tc.notAfter), 400, "InvalidParameter")
		if !strings.Contains(a.Message, `"NotBefore"`) && !strings.Contains(a.Message, `"NotAfter"`) {
			t.Errorf("%+v: got message %q, want it to name the parameter", tc, a.Message)
		}
	}
	for _, tc := range []struct{ notBefore, notAfter string }{
		{"2026-11-21T20:56:37Z", "2026-11-21T20:56:38Z"}, {"2000-01-01T00:00:00Z", "9999-12-31T23:59:59Z"}, {"2050-01-01T00:00:00Z", "2051-01-01T00:00:00Z"},
	} {
		a := b.want(ask(tc.notBefore, tc.notAfter), 200, "")
		certificate, _ := openClientKey(t, a.Body["PrivateKeyData"].(string), "password1")
		shown := []any{a.Body["NotBefore"], a.Body["NotAfter"], certificate.NotBefore.Format("2006-01-02T15:04:05Z"), certificate.NotAfter.Format("2006-01-02T15:04:05Z")}
		if !slices.Equal(shown, []any{tc.notBefore, tc.notAfter, tc.notBefore, tc.notAfter}) {
			t.Errorf("%+v: got %v in the answer and the certificate, want the same", tc, shown)
		}
	}
	a := b.want(ask("", ""), 200, "")
	if a.Body["NotBefore"] != "2026-11-21T20:56:37Z" || a.Body["NotAfter"] != "2031-11-21T20:56:37Z" {
		t.Errorf("without NotBefore and NotAfter: got %v, want five years from now", a.Body)
	}
}
