package gateway_test

import (
	"bufio"
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emmansun/gmsm/sm2"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/nativepb"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// nativeBench is a bench with a program that may use every key.
func nativeBench(t testing.TB, change ...func(*gateway.Config)) (*bench, nativeClient) {
	t.Helper()
	b := newBench(t, change...)
	b.newAccessPoint("app", []string{"key/*"})
	return b, b.newNativeClient("app")
}

// newPair makes a key and gives it with its oldest version.
func (b *bench) newPair(spec hsm.KeySpec) (k testKey) {
	b.t.Helper()
	var made struct{ KeyMetadata struct{ KeyId string } }
	b.local("CreateKey", &made, "KeySpec", string(spec))
	k.KeyId = made.KeyMetadata.KeyId
	k.KeyVersionId = b.versions(k.KeyId)[0]
	return k
}

func (b *bench) public(k testKey) (key hsm.Key) {
	b.t.Helper()
	err := b.db.View(func(tx *store.Tx) error {
		v, err := tx.KeyVersion(k.KeyId, k.KeyVersionId)
		key = v.Key
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return key
}

// hashed gives what a RAW message is hashed to for a key, by gmsm and the standard
// library.
func hashed(t testing.TB, key hsm.Key, message []byte) []byte {
	t.Helper()
	if key.Spec != hsm.EC_SM2 {
		sum := sha256.Sum256(message)
		return sum[:]
	}
	public, err := sm2.NewPublicKey(key.Public[len(key.Public)-65:])
	if err != nil {
		t.Fatal(err)
	}
	sum, err := sm2.CalculateSM2Hash(public, message, nil)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// TestNativeSign signs RAW messages and digests with a key of every KeySpec, with
// every algorithm and with none, which means the first; and has them verified by the
// native API, by the other API, and with the public key that it shows.
func TestNativeSign(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	text := []byte("this is message")
	for _, spec := range hsm.KeySpecs() {
		k := b.newPair(spec)
		key := b.public(k)
		digest := hashed(t, key, text)
		for _, algorithm := range append(hsm.Algorithms(spec), "") {
			want := algorithm
			if want == "" {
				want = hsm.Algorithms(spec)[0]
			}
			for _, m := range []*nativepb.SignRequest{
				{Message: text, MessageType: "RAW"}, {Message: text}, {Message: digest, MessageType: "DIGEST"}, {Digest: digest}, {Digest: digest, MessageType: "DIGEST"},
			} {
				m.KeyId, m.Algorithm = k.KeyId, string(algorithm)
				var signed nativepb.SignResponse
				a := b.want(c.do("Sign", m, &signed), 200, "")
				messageType := "DIGEST"
				if bytes.Equal(m.Message, text) {
					messageType = "RAW"
				}
				if signed.KeyId != k.KeyId || signed.Algorithm != string(want) || signed.MessageType != messageType || a.Header.Get("x-kms-migrationkeyversionid") != k.KeyVersionId {
					t.Errorf("%s %v: %v, version %q", spec, m, &signed, a.Header.Get("x-kms-migrationkeyversionid"))
				}
				if ok, err := hsm.Verify(key, want, digest, signed.Signature); err != nil || !ok {
					t.Errorf("%s %v: the signature is %v, %v", spec, m, ok, err)
				}
				for _, tampered := range []bool{false, true} {
					v := &nativepb.VerifyRequest{KeyId: k.KeyId, Algorithm: m.Algorithm, Message: m.Message, Digest: m.Digest, MessageType: m.MessageType, Signature: bytes.Clone(signed.Signature)}
					if tampered {
						v.Signature[len(v.Signature)-1] ^= 1
					}
					var verified nativepb.VerifyResponse
					b.want(c.do("Verify", v, &verified), 200, "")
					if verified.Value == tampered || verified.KeyId != k.KeyId || verified.Algorithm != string(want) || verified.MessageType != messageType {
						t.Errorf("%s %v, tampered %v: %v", spec, m, tampered, &verified)
					}
				}
				a = b.do(b.root, "AsymmetricVerify", "KeyId", k.KeyId, "KeyVersionId", k.KeyVersionId, "Algorithm", string(want),
					"Digest", base64.StdEncoding.EncodeToString(digest), "Value", base64.StdEncoding.EncodeToString(signed.Signature))
				if a.Body["Value"] != true {
					t.Errorf("%s %v: the other API says %v", spec, m, a)
				}
			}
		}
		var shown nativepb.GetPublicKeyResponse
		a := b.want(c.do("GetPublicKey", &nativepb.GetPublicKeyRequest{KeyId: k.KeyId}, &shown), 200, "")
		block, _ := pem.Decode([]byte(shown.PublicKey))
		if block == nil || !bytes.Equal(block.Bytes, key.Public) || shown.KeyId != k.KeyId || a.Header.Get("x-kms-migrationkeyversionid") != k.KeyVersionId {
			t.Errorf("%s: GetPublicKey %v", spec, &shown)
		}
	}
}

// TestNativeVersions: without a version, or with an empty one, it is the oldest; the
// one that was used is told.
func TestNativeVersions(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	b.clock.move(time.Hour)
	b.local("CreateKeyVersion", nil, "KeyId", b.key.KeyId)
	var newer string
	for _, id := range b.versions(b.key.KeyId) {
		if id != b.key.KeyVersionId {
			newer = id
		}
	}
	for asked, want := range map[string]string{"": b.key.KeyVersionId, b.key.KeyVersionId: b.key.KeyVersionId, newer: newer} {
		var shown nativepb.GetPublicKeyResponse
		a := b.want(c.do("GetPublicKey", &nativepb.GetPublicKeyRequest{KeyId: b.key.KeyId}, &shown, withVersion(asked)), 200, "")
		if got := a.Header.Get("x-kms-migrationkeyversionid"); got != want || shown.PublicKey != hsm.PublicKeyPEM(b.public(testKey{b.key.KeyId, want}).Public) {
			t.Errorf("asked for version %q: %q and %v, want %q", asked, got, &shown, want)
		}
	}
	a := b.want(c.do("GetPublicKey", &nativepb.GetPublicKeyRequest{KeyId: "alias/test"}, new(nativepb.GetPublicKeyResponse), withVersion("x")), 404, "Forbidden.KeyVersionNotFound")
	if a.Header.Get("x-kms-migrationkeyversionid") != "" {
		t.Error("a version is told that there is not")
	}
}

// TestGenerateRandom asks for as many bytes as can be had, and for others.
func TestGenerateRandom(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	for _, n := range []int32{1, 16, 1024} {
		var first, second nativepb.GenerateRandomResponse
		b.want(c.do("GenerateRandom", &nativepb.GenerateRandomRequest{Length: n}, &first), 200, "")
		b.want(c.do("GenerateRandom", &nativepb.GenerateRandomRequest{Length: n}, &second), 200, "")
		if len(first.Random) != int(n) || len(second.Random) != int(n) || n > 1 && bytes.Equal(first.Random, second.Random) {
			t.Errorf("%d bytes: %x and %x", n, first.Random, second.Random)
		}
	}
	for _, n := range []int32{0, -1, 1025, 1 << 30} {
		b.want(c.do("GenerateRandom", &nativepb.GenerateRandomRequest{Length: n}, nil), 400, "InvalidParameter")
	}
	b.backend.Fail(hsm.ErrNoRandom)
	b.want(c.do("GenerateRandom", &nativepb.GenerateRandomRequest{Length: 1}, nil), 400, "UnsupportedOperation")
	b.backend.Fail(nil)
	b.want(b.do(b.root, "GenerateRandom", "Length", "16"), 404, "InvalidApi.NotFound") // KMS has it for client keys only
}

// TestNativeErrors provokes every error that the native API has.
func TestNativeErrors(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	disabled, pending := b.newPair(hsm.EC_P256), b.newPair(hsm.EC_P256)
	b.local("DisableKey", nil, "KeyId", disabled.KeyId)
	b.local("ScheduleKeyDeletion", nil, "KeyId", pending.KeyId, "PendingWindowInDays", "7")
	b.newAccessPoint("narrow", []string{"key/" + disabled.KeyId})
	narrow := b.newNativeClient("narrow")
	digest := bytes.Repeat([]byte{7}, 32)
	sign := func(keyId string) *nativepb.SignRequest {
		return &nativepb.SignRequest{KeyId: keyId, Message: digest, MessageType: "DIGEST"}
	}
	seen := make(map[string]bool)
	want := func(a answer, status int, code, message string) {
		t.Helper()
		seen[code] = true
		if b.want(a, status, code); !strings.HasPrefix(a.Message, message) {
			t.Errorf("%s: %q, want it to begin with %q", code, a.Message, message)
		}
	}
	bad := func(name, value string) answer { return c.do("Sign", sign(b.key.KeyId), nil, withHeader(name, value)) }
	want(bad("Content-Type", "application/json"), 415, "InvalidContentType", `Content-Type "application/json" is unsupported.`)
	want(bad("Date", "yesterday"), 400, "InvalidParam", "The Param Date is invalid.")
	want(bad("X-Kms-Signaturemethod", ""), 400, "InvalidParam", "The Param x-kms-signaturemethod is invalid.")
	want(bad("X-Kms-Signaturemethod", "HMAC"), 400, "InvalidParam", `The Param x-kms-signaturemethod is invalid. message:"HMAC".`)
	want(bad("X-Kms-Acccesskeyid", ""), 400, "MissingParameter", "Parameter x-kms-acccesskeyid does not exist in http header or body.")
	want(bad("X-Kms-Acccesskeyid", "KAAP.1"), 404, "Unauthorized", `The AccessKey ID "KAAP.1" does not exist in our records.`)
	want(bad("X-Kms-Apiversion", "dkms-gcs-0.1"), 400, "InvalidApiVersion", `The ApiVersion "dkms-gcs-0.1" is invalid.`)
	want(bad("X-Kms-Apiname", ""), 400, "InvalidApiName", `The ApiName "" is invalid.`)
	want(bad("X-Kms-Apiname", "../Sign"), 400, "InvalidApiName", `The ApiName "../Sign" is invalid.`)
	for _, name := range []string{"Encrypt", "Decrypt", "GenerateDataKey", "GetSecretValue", "AdvanceEncrypt", "AdvanceDecrypt", "AdvanceGenerateDataKey",
		"GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext", "AdvanceGenerateDataKeyPair", "AdvanceGenerateDataKeyPairWithoutPlaintext", "Hmac",
		"AsymmetricSign", "CreateKey", "CreateUser", "CreateBackup", "sign"} {
		want(bad("X-Kms-Apiname", name), 400, "UnsupportedOperation", "This action is not supported.")
	}
	for _, far := range []time.Duration{-15*time.Minute - time.Second, 15*time.Minute + time.Second} {
		want(bad("Date", b.clock.Now().Add(far).Format(http.TimeFormat)), 400, "RequestTimeTooSkewed", "Request time exceeds server time more than 15 minutes.")
	}
	r := c.request("Sign", nil)
	r.Header.Set("Authorization", "Bearer "+base64.StdEncoding.EncodeToString(make([]byte, 256)))
	want(b.nativeRoundTrip(b.http.Client(), r, nil), 401, "SignatureNotMatch", "Signature is not matched.")
	r = c.request("Sign", nil)
	r.Header.Del("Authorization")
	want(b.nativeRoundTrip(b.http.Client(), r, nil), 400, "InvalidParam", "The Param Authorization is invalid.")
	want(bad("Content-Sha256", strings.Repeat("0", 64)), 401, "SignatureNotMatch", "Signature is not matched. The content-sha256")
	want(bad("Content-Sha256", ""), 401, "SignatureNotMatch", "Signature is not matched. The content-sha256")
	r = c.request("Sign", nil)
	r.Method = http.MethodGet
	want(b.nativeRoundTrip(b.http.Client(), r, nil), 403, "UnsupportedHTTPMethod", "")
	r = c.request("Sign", nil)
	r.URL.Path = "/x"
	want(b.nativeRoundTrip(b.http.Client(), r, nil), 404, "InvalidApi.NotFound", "")
	r = c.request("Sign", nil)
	r.URL.RawQuery = "Action=CreateKey"
	want(b.nativeRoundTrip(b.http.Client(), r, nil), 400, "InvalidParameter", "")

	for _, m := range []*nativepb.SignRequest{
		{Message: digest, MessageType: "DIGEST"}, // no KeyId
		{KeyId: b.key.KeyId, MessageType: "DIGEST"},
		{KeyId: b.key.KeyId},
	} {
		want(c.do("Sign", m, nil), 400, "MissingParameter", "")
	}
	for _, m := range []*nativepb.SignRequest{
		{KeyId: b.key.KeyId, Message: digest, MessageType: "raw"},
		{KeyId: b.key.KeyId, Message: digest[:31], MessageType: "DIGEST"},
		{KeyId: b.key.KeyId, Message: append([]byte{1}, digest...), MessageType: "DIGEST"},
		{KeyId: b.key.KeyId, Digest: digest[:31]},
		{KeyId: b.key.KeyId, Digest: digest, Message: digest},
		{KeyId: b.key.KeyId, Digest: digest, MessageType: "RAW"},
		{KeyId: b.key.KeyId, Message: digest, MessageType: "DIGEST", Algorithm: "RSA_PSS_SHA_256"},
		{KeyId: b.key.KeyId, Message: digest, MessageType: "RAW", Algorithm: "SM2DSA"},
		{KeyId: b.key.KeyId, Message: digest, MessageType: "RAW", Algorithm: "none"},
		{KeyId: strings.Repeat("k", 3000), Message: digest, MessageType: "RAW"},
	} {
		want(c.do("Sign", m, nil), 400, "InvalidParameter", "The specified parameter")
	}
	want(c.do("Verify", &nativepb.VerifyRequest{KeyId: b.key.KeyId, Message: digest}, nil), 400, "MissingParameter", `The parameter "Signature"`)
	want(c.do("GetPublicKey", &nativepb.GetPublicKeyRequest{}, nil), 400, "MissingParameter", `The parameter "KeyId"`)
	want(b.nativeRoundTrip(b.http.Client(), c.request("Sign", []byte{0x0a, 0xff}), nil), 400, "InvalidParameter", "")
	want(b.nativeRoundTrip(b.http.Client(), c.request("Sign", []byte{0x0a, 1, 0xff}), nil), 400, "InvalidParameter", "") // no UTF-8

	want(c.do("Sign", sign("no-such-key"), nil), 404, "Forbidden.KeyNotFound", "")
	want(c.do("Sign", sign("alias/none"), nil), 404, "Forbidden.KeyNotFound", "")
	want(narrow.do("Sign", sign(b.key.KeyId), nil), 403, "Forbidden.NoPermission", "")
	want(narrow.do("Sign", sign("alias/none"), nil), 403, "Forbidden.NoPermission", "")
	want(narrow.do("Sign", sign(disabled.KeyId), nil), 409, "Rejected.Disabled", "")
	want(c.do("Sign", sign(pending.KeyId), nil), 409, "Rejected.PendingDeletion", "")
	want(c.do("Sign", sign(b.key.KeyId), nil, withVersion("none")), 404, "Forbidden.KeyVersionNotFound", "")
	for _, err := range []error{hsm.ErrBusy, hsm.ErrUnavailable, hsm.ErrRefused} {
		b.backend.Fail(err)
		want(c.do("Sign", sign(b.key.KeyId), nil), 503, "ServiceUnavailableTemporary", "")
	}
	b.backend.Fail(hsm.ErrNotFound)
	want(c.do("Sign", sign(b.key.KeyId), nil), 409, "Rejected.Unavailable", "")
	b.backend.Fail(errors.New("the secret of the token"))
	want(c.do("Sign", sign(b.key.KeyId), nil), 500, "InternalFailure", "Internal Failure.")
	for _, e := range gateway.NativeErrors() {
		if !seen[e.Code] {
			t.Errorf("%s was not provoked", e.Code)
		}
	}
}

// TestNativeWindow: a client key is taken from the first to the last second of its
// time, and not any more as soon as it or its access point is deleted.
func TestNativeWindow(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	ask := func() answer {
		return c.do("GetPublicKey", &nativepb.GetPublicKeyRequest{KeyId: b.key.KeyId}, new(nativepb.GetPublicKeyResponse))
	}
	key := b.clientKeys()[0]
	b.clock.move(-time.Second)
	if a := b.want(ask(), 404, "Unauthorized"); !strings.Contains(a.Message, "valid from 2026-11-21T20:56:37Z to 2026-11-22T20:56:37Z") {
		t.Errorf("%q does not say when it is valid", a.Message)
	}
	b.clock.move(time.Second)
	b.want(ask(), 200, "")
	if got := b.metric("kmsgate_client_keys_first_expiry_seconds"); got != "1.795380997e+09" {
		t.Errorf("the first expiry is %s", got)
	}
	b.clock.move(24 * time.Hour)
	b.want(ask(), 200, "")
	b.clock.move(time.Second)
	b.want(ask(), 404, "Unauthorized")
	if got := b.metric("kmsgate_client_keys_first_expiry_seconds"); got != "0" {
		t.Errorf("the first expiry is %s when none is left", got)
	}

	key.NotAfter = key.NotAfter.Add(time.Hour)
	b.putClientKey(key)
	b.want(ask(), 200, "")
	for _, remove := range []func(tx *store.Tx) error{
		func(tx *store.Tx) error { return tx.DeleteClientKey(c.id, b.clock.Now()) },
		func(tx *store.Tx) error { return tx.DeleteAccessPoint("app", b.clock.Now()) },
	} {
		if err := b.db.Update(remove); err != nil {
			t.Fatal(err)
		}
		b.want(ask(), 404, "Unauthorized")
		b.newAccessPoint("app", []string{"key/*"})
		b.putClientKey(key)
		b.want(ask(), 200, "")
	}
}

// TestNativeAccess has client keys of access points with different permissions use
// two keys: only what a permission policy and its network rules permit is done, and
// what changes has effect on the next request.
func TestNativeAccess(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	mine, other := b.newPair(hsm.EC_P256), b.newPair(hsm.EC_P256)
	permit := func(change func(p *store.PermissionPolicy)) {
		t.Helper()
		p := store.PermissionPolicy{Name: "of-app", Permissions: []string{keyTemplate}, Resources: []string{"key/" + mine.KeyId}}
		change(&p)
		if err := b.db.Update(func(tx *store.Tx) error { return tx.PutPermissionPolicy(p) }); err != nil {
			t.Fatal(err)
		}
	}
	rule := func(name string, from ...string) {
		t.Helper()
		if err := b.db.Update(func(tx *store.Tx) error {
			return tx.PutNetworkRule(store.NetworkRule{Name: name, SourcePrivateIp: from})
		}); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(when string, random int, statuses ...int) {
		t.Helper()
		for i, k := range []testKey{mine, other} {
			for name, m := range map[string]proto.Message{"Sign": &nativepb.SignRequest{KeyId: k.KeyId, Message: []byte{1}}, "GetPublicKey": &nativepb.GetPublicKeyRequest{KeyId: k.KeyId},
				"Verify": &nativepb.VerifyRequest{KeyId: k.KeyId, Message: []byte{1}, Signature: []byte{1}}} {
				resp := map[string]proto.Message{"Sign": new(nativepb.SignResponse), "GetPublicKey": new(nativepb.GetPublicKeyResponse), "Verify": new(nativepb.VerifyResponse)}[name]
				if a := c.do(name, m, resp); a.Status != statuses[i] {
					t.Errorf("%s: %s with key %d: %d %s %s, want %d", when, name, i, a.Status, a.Code, a.Message, statuses[i])
				}
			}
		}
		if a := c.do("GenerateRandom", &nativepb.GenerateRandomRequest{Length: 8}, new(nativepb.GenerateRandomResponse)); a.Status != random {
			t.Errorf("%s: GenerateRandom: %d %s, want %d", when, a.Status, a.Code, random)
		}
	}
	expect("all keys", 200, 200, 200)
	permit(func(*store.PermissionPolicy) {})
	expect("one key", 200, 200, 403)
	permit(func(p *store.PermissionPolicy) { p.Resources = []string{"key/" + mine.KeyId[:20] + "*"} })
	expect("a prefix", 200, 200, 403)
	permit(func(p *store.PermissionPolicy) { p.Resources = []string{"secret/*"} })
	expect("secrets", 200, 403, 403)
	permit(func(p *store.PermissionPolicy) {
		p.Permissions = []string{"RbacPermission/Template/CryptoServiceSecretUser"}
	})
	expect("the other template", 403, 403, 403)
	permit(func(p *store.PermissionPolicy) { p.NetworkRules = []string{"gone"} })
	expect("a rule that is gone", 403, 403, 403)
	rule("gone", "10.0.0.0/8")
	expect("from elsewhere", 403, 403, 403)
	rule("gone", "10.0.0.0/8", "127.0.0.1")
	expect("from here", 200, 200, 403)
	if err := b.db.Update(func(tx *store.Tx) error { return tx.DeletePermissionPolicy("of-app") }); err != nil {
		t.Fatal(err)
	}
	expect("no policy", 403, 403, 403)
	permit(func(*store.PermissionPolicy) {})
	const all = `"Principal":{"RAM":["acs:ram::1000000000000001:*"]},"Action":["kms:AsymmetricSign","kms:AsymmetricVerify","kms:GetPublicKey"],"Resource":["*"]}]}`
	b.local("SetKeyPolicy", nil, "KeyId", other.KeyId, "Policy", `{"Version":"1","Statement":[{"Effect":"Allow",`+all)
	expect("a key policy that allows", 200, 200, 403)
	b.local("SetKeyPolicy", nil, "KeyId", mine.KeyId, "Policy", `{"Version":"1","Statement":[{"Effect":"Deny",`+all)
	expect("a key policy that denies", 200, 403, 403)
}

// TestNativeBodies sends as much as is allowed, and more. Of a stranger nothing is
// kept, and what was signed is what has to arrive.
func TestNativeBodies(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	const most = 3 << 20
	m := &nativepb.SignRequest{KeyId: b.key.KeyId, Message: make([]byte, most-64)}
	m.Message = make([]byte, len(m.Message)+most-proto.Size(m))
	if proto.Size(m) != most {
		t.Fatalf("the message has %d bytes", proto.Size(m))
	}
	var signed nativepb.SignResponse
	b.want(c.do("Sign", m, &signed), 200, "")
	if ok, err := hsm.Verify(b.public(b.key), hsm.ECDSA_SHA_256, hashed(t, b.public(b.key), m.Message), signed.Signature); !ok || err != nil {
		t.Errorf("the signature is %v, %v", ok, err)
	}
	m.Message = append(m.Message, 0)
	b.want(c.do("Sign", m, nil), 413, "InvalidParameter")
	body, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	r := c.request("Sign", body)
	r.ContentLength = -1 // chunked
	b.want(b.nativeRoundTrip(b.http.Client(), r, nil), 413, "InvalidParameter")
	r = c.request("Sign", body[:100])
	r.Body = io.NopCloser(bytes.NewReader(body[1:101]))
	b.want(b.nativeRoundTrip(b.http.Client(), r, nil), 401, "SignatureNotMatch")
	// A stranger's body is longer than anybody would read: the answer comes first.
	stranger := c
	stranger.id = "KAAP.none"
	r = stranger.request("Sign", body[:most])
	b.want(b.nativeRoundTrip(b.http.Client(), r, nil), 404, "Unauthorized")
}

// TestTwoDoors uses both APIs in turns on one connection.
func TestTwoDoors(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	conn, err := tls.Dial("tcp", b.http.Listener.Addr().String(), b.http.Client().Transport.(*http.Transport).TLSClientConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	reader := bufio.NewReader(conn)
	exchange := func(r *http.Request) *http.Response {
		t.Helper()
		if err := r.Write(conn); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(reader, r)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	body, err := proto.Marshal(&nativepb.SignRequest{KeyId: "alias/test", Message: []byte("m")})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 6 {
		rpc, err := http.NewRequest("GET", b.http.URL+"/?"+b.sign(b.root, "GET", "DescribeKey", params("KeyId", "alias/test")).Encode(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if a := readAnswer(t, exchange(rpc)); a.Status != 200 {
			t.Errorf("turn %d: %+v", i, a)
		}
		r := c.request("Sign", body)
		if i%2 == 1 {
			r.Header.Set("X-Kms-Apiname", "Verify") // not signed so
		}
		resp := exchange(r)
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != []int{200, 401}[i%2] || resp.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Errorf("turn %d: %d %q %v", i, resp.StatusCode, text, err)
		}
	}
	// What could be read in either way is read in one, and refused there.
	both := c.request("Sign", body)
	both.URL.RawQuery = b.sign(b.root, "POST", "DescribeKey", params("KeyId", "alias/test")).Encode()
	b.want(b.nativeRoundTrip(b.http.Client(), both, nil), 400, "InvalidParameter")
	both = c.request("Sign", body)
	both.Header.Set("X-Acs-Action", "CreateKey")
	b.want(b.nativeRoundTrip(b.http.Client(), both, new(nativepb.SignResponse)), 200, "")
}

// TestNativeAudit: a request through either door is the same operation in the log.
func TestNativeAudit(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	text := []byte("this is message")
	a := b.want(c.do("Sign", &nativepb.SignRequest{KeyId: "alias/test", Message: text}, new(nativepb.SignResponse)), 200, "")
	e, _ := b.auditLine(a.RequestId)
	got, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`"AccessKeyId":"%s","Action":"AsymmetricSign","Algorithm":"ECDSA_SHA_256","Alias":"alias/test","Digest":"%s","Door":"native","KeyId":"%s","KeySpec":"EC_P256","KeyVersionId":"%s","Principal":"aap:app","Protocol":"dkms-gcs","RequestId":"%s","Status":200`,
		c.id, base64.StdEncoding.EncodeToString(hashed(t, b.public(b.key), text)), b.key.KeyId, b.key.KeyVersionId, a.RequestId)
	for _, member := range strings.Split(want, ",") {
		if !strings.Contains(string(got), member) {
			t.Errorf("the line has no %s: %s", member, got)
		}
	}
	var verified nativepb.VerifyResponse
	a = b.want(c.do("Verify", &nativepb.VerifyRequest{KeyId: "alias/test", Message: text, Signature: []byte{1}}, &verified), 200, "")
	if e, _ := b.auditLine(a.RequestId); e.Action != "AsymmetricVerify" || e.Valid == nil || *e.Valid || verified.Value {
		t.Errorf("audit line %+v", e)
	}
	a = b.want(c.do("Encrypt", &nativepb.SignRequest{}, nil), 400, "UnsupportedOperation")
	if e, _ := b.auditLine(a.RequestId); e.Action != "Encrypt" || e.Principal != "aap:app" {
		t.Errorf("audit line %+v", e)
	}
	stranger := c
	stranger.id = "KAAP.none"
	a = b.want(stranger.do("Sign", &nativepb.SignRequest{}, nil), 404, "Unauthorized")
	if e, _ := b.auditLine(a.RequestId); e.Principal != "" || e.AccessKeyId != "KAAP.none" || e.Door != "native" {
		t.Errorf("audit line %+v", e)
	}
}

// TestNativeQuota: what a client key asks for is charged as through the other door,
// to its access point.
func TestNativeQuota(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	b.newAccessPoint("other", []string{"key/*"})
	second, other := b.newNativeClient("app"), b.newNativeClient("other")
	b.listen(gateway.Listener{Gateway: gateway.SharedGateway, BusinessOnly: true})
	sign := func(c nativeClient) func() answer {
		return func() answer {
			return c.do("Sign", &nativepb.SignRequest{KeyId: b.key.KeyId, Message: []byte{1}}, new(nativepb.SignResponse))
		}
	}
	if codes := b.among(32, 224, sign(c)); codes[""] != 200 || codes[throttled] != 24 {
		t.Errorf("of 224 requests in one moment: %v, want 200 served", codes)
	}
	a := b.want(sign(second)(), 429, throttled)
	if e, _ := b.auditLine(a.RequestId); e.Quota != "asymmetric" || e.Principal != "aap:app" || a.Header.Get("Retry-After") != "1" {
		t.Errorf("audit line %+v, header %v", e, a.Header)
	}
	b.want(second.do("GenerateRandom", &nativepb.GenerateRandomRequest{Length: 1}, nil), 429, throttled)
	b.want(second.do("GetPublicKey", &nativepb.GetPublicKeyRequest{KeyId: b.key.KeyId}, new(nativepb.GetPublicKeyResponse)), 200, "")
	b.want(sign(other)(), 200, "")
	b.want(b.do(b.root, "AsymmetricSign", b.signParams()...), 200, "")
	b.clock.move(time.Second)
	b.want(sign(c)(), 200, "")
}

// TestNativeAuditFails: without its line nothing is signed or made.
func TestNativeAuditFails(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	b.log.Close()
	for name, m := range map[string]proto.Message{"Sign": &nativepb.SignRequest{KeyId: b.key.KeyId, Message: []byte{1}}, "GenerateRandom": &nativepb.GenerateRandomRequest{Length: 1}} {
		if a := c.do(name, m, nil); a.Status != 503 || a.Code != "ServiceUnavailableTemporary" {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

// TestNativeVectors sends what the KMS Instance SDK and the transfer SDK have sent to
// a gateway that has the keys which those requests name, at the time they were made.
func TestNativeVectors(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	const keyId, keyVersionId = "5c438b18-05be-40ad-b6c2-3be6752c0000", "2ab1a983-7072-4bbc-a582-584b5bd80000"
	b.newAccessPoint("app", []string{"key/*"})
	b.vectorKey(keyId, keyVersionId)
	text, err := os.ReadFile("acs/testdata/dkms-client-public-key.pem")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	const id = "KAAP.00000000-1111-2222-3333-444444444444"
	now := b.clock.Now()
	b.putClientKey(store.ClientKey{ClientKeyId: id, AapName: "app", Certificate: certify(t, id, public.(*rsa.PublicKey)), NotBefore: now, NotAfter: now.Add(time.Hour)})
	answered := 0
	for i, v := range nativeVectors(t) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(v.Raw)))
		if err != nil {
			t.Fatal(err)
		}
		message, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		sent, err := http.NewRequestWithContext(t.Context(), r.Method, b.http.URL+r.RequestURI, bytes.NewReader(message))
		if err != nil {
			t.Fatal(err)
		}
		sent.Header = r.Header
		var resp proto.Message = map[string]proto.Message{"Sign": new(nativepb.SignResponse), "Verify": new(nativepb.VerifyResponse),
			"GetPublicKey": new(nativepb.GetPublicKeyResponse), "GenerateRandom": new(nativepb.GenerateRandomResponse)}[r.Header.Get("x-kms-apiname")]
		status, code := 200, ""
		switch {
		case strings.Contains(v.Name, "errors"): // they name keys that there are not
			status, code = 404, "Forbidden.KeyNotFound"
		case strings.Contains(v.Name, "ecdsa"): // they name this key as one of another KeySpec
			status, code = 400, "InvalidParameter"
		default:
			answered++
		}
		if a := b.want(b.nativeRoundTrip(b.http.Client(), sent, resp), status, code); a.Status != 200 {
			continue
		}
		if got, ok := resp.(interface{ GetKeyId() string }); ok && got.GetKeyId() != keyId {
			t.Errorf("vector %d: %v", i, resp)
		}
	}
	if answered < 4 {
		t.Errorf("only %d vectors were answered", answered)
	}
}

// vectorKey makes an RSA_2048 key with the ids that the vectors name.
func (b *bench) vectorKey(keyId, keyVersionId string) {
	b.t.Helper()
	k := b.newPair(hsm.RSA_2048)
	err := b.db.Update(func(tx *store.Tx) error {
		key, err := tx.Key(k.KeyId)
		if err != nil {
			return err
		}
		key.KeyId = keyId
		id := uuid.MustParse(keyVersionId)
		pair, err := b.backend.Generate(b.t.Context(), hsm.RSA_2048, id[:])
		return errors.Join(err, tx.PutKey(key), tx.PutKeyVersion(store.KeyVersion{KeyId: keyId, KeyVersionId: keyVersionId, Key: pair}))
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

// A nativeVector is a request as an official client sent it.
type nativeVector struct {
	Name, Protocol string
	Raw            []byte
}

func nativeVectors(t testing.TB) (all []nativeVector) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("acs", "testdata", "vectors.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for d := json.NewDecoder(bytes.NewReader(text)); ; {
		var v nativeVector
		if err := d.Decode(&v); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		if v.Protocol == "DKMS-GCS" {
			all = append(all, v)
		}
	}
}
