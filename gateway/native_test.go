package gateway_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/emmansun/gmsm/sm2"
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

func (b *bench) public(k testKey) hsm.Key {
	b.t.Helper()
	v, err := b.db.Now().Version(k.KeyId, k.KeyVersionId)
	if err != nil {
		b.t.Fatal(err)
	}
	return v.Key
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
		func(tx *store.Tx) error { return tx.ClientKeys().Delete(c.id) },
		func(tx *store.Tx) error { return tx.AccessPoints().Delete("app") },
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
		if err := b.db.Update(func(tx *store.Tx) error { return tx.PermissionPolicies().Put(p) }); err != nil {
			t.Fatal(err)
		}
	}
	rule := func(name string, from ...string) {
		t.Helper()
		if err := b.db.Update(func(tx *store.Tx) error {
			return tx.NetworkRules().Put(store.NetworkRule{Name: name, SourcePrivateIp: from})
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
	if err := b.db.Update(func(tx *store.Tx) error { return tx.PermissionPolicies().Delete("of-app") }); err != nil {
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

// TestNativeReplay sends the same request again: it is answered, as the SDKs need it,
// with a line each, until its time has passed.
func TestNativeReplay(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	body, err := proto.Marshal(&nativepb.SignRequest{KeyId: b.key.KeyId, Message: []byte("m")})
	if err != nil {
		t.Fatal(err)
	}
	r := c.request("Sign", body)
	again := func() answer {
		t.Helper()
		r := r.Clone(t.Context())
		r.Body = io.NopCloser(bytes.NewReader(body))
		return b.nativeRoundTrip(b.http.Client(), r, new(nativepb.SignResponse))
	}
	first := b.want(again(), 200, "")
	if second := b.want(again(), 200, ""); second.RequestId == first.RequestId {
		t.Error("two requests have one RequestId")
	}
	b.clock.move(15 * time.Minute)
	b.want(again(), 200, "")
	b.clock.move(time.Second)
	b.want(again(), 400, "RequestTimeTooSkewed")
}
