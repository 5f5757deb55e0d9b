package gateway_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/nativepb"
	"github.com/kmsgate/kmsgate/store"
)

// keyTemplate is the KMS permission to use keys.
const keyTemplate = "RbacPermission/Template/CryptoServiceKeyUser"

// clientRSA returns an RSA key that all test clients share, because making one takes a while.
var clientRSA = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// A nativeClient is a client of the native API with a client key. It implements the documented
// protocol independently of the gateway.
type nativeClient struct {
	b   *bench
	id  string
	key *rsa.PrivateKey
}

// newAccessPoint makes an access point whose client keys may use the resources from the networks of
// the rules. Without rules, they may use them from anywhere.
func (b *bench) newAccessPoint(name string, resources []string, rules ...string) {
	b.t.Helper()
	err := b.db.Update(func(tx *store.Tx) error {
		return errors.Join(
			tx.PermissionPolicies().Put(store.PermissionPolicy{
				Name: "of-" + name, Permissions: []string{keyTemplate}, Resources: resources, NetworkRules: rules,
			}),
			tx.AccessPoints().Put(store.ApplicationAccessPoint{Name: name, Policies: []string{"of-" + name}}))
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

// newNativeClient makes a client key of an access point and returns a client that uses it.
func (b *bench) newNativeClient(aapName string) nativeClient {
	b.t.Helper()
	c := nativeClient{b, fmt.Sprintf("KAAP.11111111-2222-3333-4444-%012x", len(b.clientKeys())), clientRSA()}
	now := b.clock.Now()
	b.putClientKey(store.ClientKey{
		ClientKeyId: c.id,
		AapName:     aapName,
		Certificate: certify(b.t, c.id, &c.key.PublicKey),
		NotBefore:   now,
		NotAfter:    now.Add(24 * time.Hour),
	})
	return c
}

func (b *bench) clientKeys() (all []store.ClientKey) {
	all = slices.Collect(b.db.Now().ClientKeys().All())
	return all
}

// putClientKey seals and writes the record of a client key as the gateway does.
func (b *bench) putClientKey(k store.ClientKey) {
	b.t.Helper()
	if err := identity.SealClientKey(b.t.Context(), b.backend, &k); err != nil {
		b.t.Fatal(err)
	}
	if err := b.db.Update(func(tx *store.Tx) error { return tx.ClientKeys().Put(k) }); err != nil {
		b.t.Fatal(err)
	}
}

// certify makes a certificate for the public key of a client key.
func certify(t testing.TB, clientKeyId string, public *rsa.PublicKey) []byte {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: clientKeyId},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, public, clientRSA())
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// request makes a signed request as the KMS Instance SDK does. It calls change before it signs the
// headers.
func (c nativeClient) request(apiName string, body []byte, change ...func(h http.Header)) *http.Request {
	c.b.t.Helper()
	r, err := http.NewRequestWithContext(c.b.t.Context(), http.MethodPost, c.b.http.URL+"/", bytes.NewReader(body))
	if err != nil {
		c.b.t.Fatal(err)
	}
	for name, value := range map[string]string{
		"Accept":                "application/x-protobuf",
		"Content-Type":          "application/x-protobuf",
		"Date":                  c.b.clock.Now().Format(http.TimeFormat),
		"Content-Sha256":        fmt.Sprintf("%X", sha256.Sum256(body)),
		"X-Kms-Acccesskeyid":    c.id,
		"X-Kms-Apiname":         apiName,
		"X-Kms-Apiversion":      "dkms-gcs-0.2",
		"X-Kms-Signaturemethod": "RSA_PKCS1_SHA_256",
	} {
		r.Header.Set(name, value)
	}
	for _, f := range change {
		f(r.Header)
	}
	c.sign(r)
	return r
}

// sign signs the current headers of a request.
func (c nativeClient) sign(r *http.Request) {
	c.b.t.Helper()
	toSign := r.Method + "\n" + r.Header.Get("Content-Sha256") + "\n" +
		r.Header.Get("Content-Type") + "\n" + r.Header.Get("Date") + "\n"
	var names []string
	for name := range r.Header {
		if strings.HasPrefix(name, "X-Kms-") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		toSign += strings.ToLower(name) + ":" + r.Header.Get(name) + "\n"
	}
	digest := sha256.Sum256([]byte(toSign + "/"))
	signature, err := rsa.SignPKCS1v15(rand.Reader, c.key, crypto.SHA256, digest[:])
	if err != nil {
		c.b.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+base64.StdEncoding.EncodeToString(signature))
}

func withHeader(name, value string) func(h http.Header) {
	return func(h http.Header) { h.Set(name, value) }
}

// withVersion sends a KeyVersionId, as the transfer SDK does.
func withVersion(id string) func(h http.Header) { return withHeader("X-Kms-Migrationkeyversionid", id) }

// do sends a message. If the answer is not an error, do decodes it into resp.
func (c nativeClient) do(apiName string, req, resp proto.Message, change ...func(h http.Header)) answer {
	c.b.t.Helper()
	body, err := proto.Marshal(req)
	if err != nil {
		c.b.t.Fatal(err)
	}
	return c.b.nativeRoundTrip(c.b.http.Client(), c.request(apiName, body, change...), resp)
}

// nativeRoundTrip sends a request and returns the answer.
func (b *bench) nativeRoundTrip(client *http.Client, r *http.Request, resp proto.Message) answer {
	b.t.Helper()
	got, err := client.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.readNative(got, resp)
}

// readNative reads an answer, and checks the properties that every answer must have.
func (b *bench) readNative(got *http.Response, resp proto.Message) answer {
	b.t.Helper()
	defer got.Body.Close()
	text, err := io.ReadAll(got.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	a := answer{Status: got.StatusCode, Header: got.Header}
	if ct := got.Header.Get("Content-Type"); ct != "application/x-protobuf" {
		b.t.Errorf("status %d, Content-Type %q, want application/x-protobuf: %q", a.Status, ct, text)
	}
	if a.Status == http.StatusOK {
		if err := proto.Unmarshal(text, resp); err != nil {
			b.t.Fatalf("decoding the answer: %v: %x", err, text)
		}
		a.RequestId = resp.(interface{ GetRequestId() string }).GetRequestId()
		return a
	}
	var e nativepb.Error
	if err := proto.Unmarshal(text, &e); err != nil {
		b.t.Fatalf("decoding the Error of status %d: %v: %q", a.Status, err, text)
	}
	if int(e.StatusCode) != a.Status || e.ErrorCode == "" || e.ErrorMessage == "" || e.RequestId == "" {
		b.t.Errorf("status %d with the Error %v, want one with all members and the same status", a.Status, &e)
	}
	a.Code, a.Message, a.RequestId = e.ErrorCode, e.ErrorMessage, e.RequestId
	return a
}
