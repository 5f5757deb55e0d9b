package gateway_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
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

// nativeBench returns a bench and a client of the native API that may use every key.
func nativeBench(t testing.TB, change ...func(*gateway.Config)) (*bench, nativeClient) {
	t.Helper()
	b := newBench(t, change...)
	b.newAccessPoint("app", []string{"key/*"})
	return b, b.newNativeClient("app")
}

// newPair makes a key and returns it with its oldest version.
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

// hashMessage returns the digest of a RAW message for a key, computed by gmsm or the standard
// library.
func hashMessage(t testing.TB, key hsm.Key, message []byte) []byte {
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

// TestNativeSign signs RAW messages and digests with a key of every KeySpec, with every algorithm
// and with none, which means the first. It verifies the signatures through the native API, through
// the RPC API, and with the public key that GetPublicKey returns.
func TestNativeSign(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	text := []byte("this is message")
	for _, spec := range hsm.KeySpecs() {
		k := b.newPair(spec)
		key := b.public(k)
		digest := hashMessage(t, key, text)
		for _, algorithm := range append(hsm.Algorithms(spec), "") {
			want := algorithm
			if want == "" {
				want = hsm.Algorithms(spec)[0]
			}
			for _, m := range []*nativepb.SignRequest{
				{Message: text, MessageType: "RAW"}, {Message: text}, {Message: digest, MessageType: "DIGEST"},
				{Digest: digest}, {Digest: digest, MessageType: "DIGEST"},
			} {
				m.KeyId, m.Algorithm = k.KeyId, string(algorithm)
				var signed nativepb.SignResponse
				a := b.want(c.do("Sign", m, &signed), 200, "")
				messageType := "DIGEST"
				if bytes.Equal(m.Message, text) {
					messageType = "RAW"
				}
				if signed.KeyId != k.KeyId || signed.Algorithm != string(want) || signed.MessageType != messageType {
					t.Errorf("%s %v: %v, want KeyId %q, Algorithm %s and MessageType %s",
						spec, m, &signed, k.KeyId, want, messageType)
				}
				if got := a.Header.Get("x-kms-migrationkeyversionid"); got != k.KeyVersionId {
					t.Errorf("%s %v: version %q, want %q", spec, m, got, k.KeyVersionId)
				}
				if ok, err := hsm.Verify(key, want, digest, signed.Signature); err != nil || !ok {
					t.Errorf("%s %v: verifying the signature: %v, %v, want true", spec, m, ok, err)
				}
				for _, tampered := range []bool{false, true} {
					v := &nativepb.VerifyRequest{
						KeyId: k.KeyId, Algorithm: m.Algorithm, Message: m.Message, Digest: m.Digest,
						MessageType: m.MessageType, Signature: bytes.Clone(signed.Signature),
					}
					if tampered {
						v.Signature[len(v.Signature)-1] ^= 1
					}
					var verified nativepb.VerifyResponse
					b.want(c.do("Verify", v, &verified), 200, "")
					if verified.Value == tampered || verified.KeyId != k.KeyId ||
						verified.Algorithm != string(want) || verified.MessageType != messageType {
						t.Errorf("%s %v, tampered %v: %v, want Value %v", spec, m, tampered, &verified, !tampered)
					}
				}
				a = b.do(b.root, "AsymmetricVerify", "KeyId", k.KeyId, "KeyVersionId", k.KeyVersionId,
					"Algorithm", string(want), "Digest", base64.StdEncoding.EncodeToString(digest),
					"Value", base64.StdEncoding.EncodeToString(signed.Signature))
				if a.Body["Value"] != true {
					t.Errorf("%s %v: AsymmetricVerify: %v, want true", spec, m, a)
				}
			}
		}
		var shown nativepb.GetPublicKeyResponse
		a := b.want(c.do("GetPublicKey", &nativepb.GetPublicKeyRequest{KeyId: k.KeyId}, &shown), 200, "")
		block, _ := pem.Decode([]byte(shown.PublicKey))
		if block == nil || !bytes.Equal(block.Bytes, key.Public) || shown.KeyId != k.KeyId {
			t.Errorf("%s: GetPublicKey: %v, want the public key of %q", spec, &shown, k.KeyId)
		}
		if got := a.Header.Get("x-kms-migrationkeyversionid"); got != k.KeyVersionId {
			t.Errorf("%s: GetPublicKey: version %q, want %q", spec, got, k.KeyVersionId)
		}
	}
}

// TestNativeVersions checks that a request without a version, or with an empty one, uses the oldest
// version, and that the answer names the version that was used.
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
	oldest := b.key.KeyVersionId
	for requested, want := range map[string]string{"": oldest, oldest: oldest, newer: newer} {
		var shown nativepb.GetPublicKeyResponse
		req := &nativepb.GetPublicKeyRequest{KeyId: b.key.KeyId}
		a := b.want(c.do("GetPublicKey", req, &shown, withVersion(requested)), 200, "")
		if got := a.Header.Get("x-kms-migrationkeyversionid"); got != want {
			t.Errorf("request for version %q: version %q, want %q", requested, got, want)
		}
		if want := hsm.PublicKeyPEM(b.public(testKey{b.key.KeyId, want}).Public); shown.PublicKey != want {
			t.Errorf("request for version %q: %v, want the public key %s", requested, &shown, want)
		}
	}
	req := &nativepb.GetPublicKeyRequest{KeyId: "alias/test"}
	a := c.do("GetPublicKey", req, new(nativepb.GetPublicKeyResponse), withVersion("x"))
	b.want(a, 404, "Forbidden.KeyVersionNotFound")
	if got := a.Header.Get("x-kms-migrationkeyversionid"); got != "" {
		t.Errorf("request for version \"x\", which does not exist: version %q, want none", got)
	}
}

// TestGenerateRandom requests permitted and refused numbers of random bytes.
func TestGenerateRandom(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	for _, n := range []int32{1, 16, 1024} {
		var first, second nativepb.GenerateRandomResponse
		b.want(c.do("GenerateRandom", &nativepb.GenerateRandomRequest{Length: n}, &first), 200, "")
		b.want(c.do("GenerateRandom", &nativepb.GenerateRandomRequest{Length: n}, &second), 200, "")
		if len(first.Random) != int(n) || len(second.Random) != int(n) ||
			n > 1 && bytes.Equal(first.Random, second.Random) {
			t.Errorf("%x and %x, want two different texts of %d bytes", first.Random, second.Random, n)
		}
	}
	for _, n := range []int32{0, -1, 1025, 1 << 30} {
		b.want(c.do("GenerateRandom", &nativepb.GenerateRandomRequest{Length: n}, nil), 400, "InvalidParameter")
	}
	b.backend.Fail(hsm.ErrNoRandom)
	b.want(c.do("GenerateRandom", &nativepb.GenerateRandomRequest{Length: 1}, nil), 400, "UnsupportedOperation")
	b.backend.Fail(nil)
	// KMS offers GenerateRandom for client keys only.
	b.want(b.do(b.root, "GenerateRandom", "Length", "16"), 404, "InvalidApi.NotFound")
}

// TestNativeWindow checks that a client key works from the first to the last second of its
// validity, and stops working as soon as the key or its access point is deleted.
func TestNativeWindow(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	ask := func() answer {
		req := &nativepb.GetPublicKeyRequest{KeyId: b.key.KeyId}
		return c.do("GetPublicKey", req, new(nativepb.GetPublicKeyResponse))
	}
	key := b.clientKeys()[0]
	b.clock.move(-time.Second)
	const validity = "valid only from 2026-11-21T20:56:37Z to 2026-11-22T20:56:37Z"
	if a := b.want(ask(), 404, "Unauthorized"); !strings.Contains(a.Message, validity) {
		t.Errorf("message %q, want it to contain %q", a.Message, validity)
	}
	b.clock.move(time.Second)
	b.want(ask(), 200, "")
	if got, want := b.metric("kmsgate_client_keys_first_expiry_seconds"), "1.795380997e+09"; got != want {
		t.Errorf("first expiry: %s, want %s", got, want)
	}
	b.clock.move(24 * time.Hour)
	b.want(ask(), 200, "")
	b.clock.move(time.Second)
	b.want(ask(), 404, "Unauthorized")
	if got := b.metric("kmsgate_client_keys_first_expiry_seconds"); got != "0" {
		t.Errorf("first expiry without valid client keys: %s, want 0", got)
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

// TestNativeAccess uses two keys with a client key while the permissions of its access point
// change. The gateway does only what a permission policy and its network rules permit. Every change
// takes effect with the next request.
func TestNativeAccess(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	own, other := b.newPair(hsm.EC_P256), b.newPair(hsm.EC_P256)
	permit := func(change func(p *store.PermissionPolicy)) {
		t.Helper()
		p := store.PermissionPolicy{
			Name: "of-app", Permissions: []string{keyTemplate}, Resources: []string{"key/" + own.KeyId},
		}
		change(&p)
		if err := b.db.Update(func(tx *store.Tx) error { return tx.PermissionPolicies().Put(p) }); err != nil {
			t.Fatal(err)
		}
	}
	rule := func(name string, sources ...string) {
		t.Helper()
		if err := b.db.Update(func(tx *store.Tx) error {
			return tx.NetworkRules().Put(store.NetworkRule{Name: name, SourcePrivateIp: sources})
		}); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(moment string, random int, statuses ...int) {
		t.Helper()
		for i, k := range []testKey{own, other} {
			verify := &nativepb.VerifyRequest{KeyId: k.KeyId, Message: []byte{1}, Signature: []byte{1}}
			for name, m := range map[string]struct{ req, resp proto.Message }{
				"Sign":         {&nativepb.SignRequest{KeyId: k.KeyId, Message: []byte{1}}, new(nativepb.SignResponse)},
				"GetPublicKey": {&nativepb.GetPublicKeyRequest{KeyId: k.KeyId}, new(nativepb.GetPublicKeyResponse)},
				"Verify":       {verify, new(nativepb.VerifyResponse)},
			} {
				if a := c.do(name, m.req, m.resp); a.Status != statuses[i] {
					t.Errorf("%s: %s with key %d: %d %s %s, want %d",
						moment, name, i, a.Status, a.Code, a.Message, statuses[i])
				}
			}
		}
		req := &nativepb.GenerateRandomRequest{Length: 8}
		if a := c.do("GenerateRandom", req, new(nativepb.GenerateRandomResponse)); a.Status != random {
			t.Errorf("%s: GenerateRandom: %d %s, want %d", moment, a.Status, a.Code, random)
		}
	}
	expect("all keys", 200, 200, 200)
	permit(func(*store.PermissionPolicy) {})
	expect("one key", 200, 200, 403)
	permit(func(p *store.PermissionPolicy) { p.Resources = []string{"key/" + own.KeyId[:20] + "*"} })
	expect("a prefix", 200, 200, 403)
	permit(func(p *store.PermissionPolicy) { p.Resources = []string{"secret/*"} })
	expect("secrets", 200, 403, 403)
	permit(func(p *store.PermissionPolicy) {
		p.Permissions = []string{"RbacPermission/Template/CryptoServiceSecretUser"}
	})
	expect("the other template", 403, 403, 403)
	permit(func(p *store.PermissionPolicy) { p.NetworkRules = []string{"gone"} })
	expect("a rule that does not exist", 403, 403, 403)
	rule("gone", "10.0.0.0/8")
	expect("a rule without this source", 403, 403, 403)
	rule("gone", "10.0.0.0/8", "127.0.0.1")
	expect("a rule with this source", 200, 200, 403)
	if err := b.db.Update(func(tx *store.Tx) error { return tx.PermissionPolicies().Delete("of-app") }); err != nil {
		t.Fatal(err)
	}
	expect("no policy", 403, 403, 403)
	permit(func(*store.PermissionPolicy) {})
	const all = `"Principal":{"RAM":["acs:ram::1000000000000001:*"]},` +
		`"Action":["kms:AsymmetricSign","kms:AsymmetricVerify","kms:GetPublicKey"],"Resource":["*"]}]}`
	b.local("SetKeyPolicy", nil, "KeyId", other.KeyId, "Policy", `{"Version":"1","Statement":[{"Effect":"Allow",`+all)
	expect("a key policy that allows", 200, 200, 403)
	b.local("SetKeyPolicy", nil, "KeyId", own.KeyId, "Policy", `{"Version":"1","Statement":[{"Effect":"Deny",`+all)
	expect("a key policy that denies", 200, 403, 403)
}

// TestNativeBodies sends a body of the maximum size, a larger one, and one that differs from the
// signed body. It also sends a body without a valid client key, which the gateway does not read.
func TestNativeBodies(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	const maxBody = 3 << 20
	m := &nativepb.SignRequest{KeyId: b.key.KeyId, Message: make([]byte, maxBody-64)}
	m.Message = make([]byte, len(m.Message)+maxBody-proto.Size(m))
	if n := proto.Size(m); n != maxBody {
		t.Fatalf("the message has %d bytes, want %d", n, maxBody)
	}
	var signed nativepb.SignResponse
	b.want(c.do("Sign", m, &signed), 200, "")
	key := b.public(b.key)
	ok, err := hsm.Verify(key, hsm.ECDSA_SHA_256, hashMessage(t, key, m.Message), signed.Signature)
	if !ok || err != nil {
		t.Errorf("verifying the signature: %v, %v, want true", ok, err)
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
	// The gateway answers before it reads a body of maximum size without a valid client key.
	unknown := c
	unknown.id = "KAAP.none"
	r = unknown.request("Sign", body[:maxBody])
	b.want(b.nativeRoundTrip(b.http.Client(), r, nil), 404, "Unauthorized")
}

// TestTwoDoors alternates between both APIs on one connection.
func TestTwoDoors(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	config := b.http.Client().Transport.(*http.Transport).TLSClientConfig
	conn, err := tls.Dial("tcp", b.http.Listener.Addr().String(), config)
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
		query := b.sign(b.root, "GET", "DescribeKey", params("KeyId", "alias/test")).Encode()
		rpc, err := http.NewRequest("GET", b.http.URL+"/?"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		if a := readAnswer(t, exchange(rpc)); a.Status != 200 {
			t.Errorf("round %d: RPC API: %+v, want status 200", i, a)
		}
		r := c.request("Sign", body)
		if i%2 == 1 {
			r.Header.Set("X-Kms-Apiname", "Verify") // the signature is for Sign
		}
		resp := exchange(r)
		text, err := io.ReadAll(resp.Body)
		want := []int{200, 401}[i%2]
		if err != nil || resp.StatusCode != want || resp.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Errorf("round %d: native API: %d %q, %v, want status %d", i, resp.StatusCode, text, err, want)
		}
	}
	// A request that fits both APIs is a request of the native API, which refuses a query.
	both := c.request("Sign", body)
	both.URL.RawQuery = b.sign(b.root, "POST", "DescribeKey", params("KeyId", "alias/test")).Encode()
	b.want(b.nativeRoundTrip(b.http.Client(), both, nil), 400, "InvalidParameter")
	both = c.request("Sign", body)
	both.Header.Set("X-Acs-Action", "CreateKey")
	b.want(b.nativeRoundTrip(b.http.Client(), both, new(nativepb.SignResponse)), 200, "")
}

// TestNativeAudit checks that the audit log names the operation of a native request as it names
// that of an RPC request.
func TestNativeAudit(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	text := []byte("this is message")
	req := &nativepb.SignRequest{KeyId: "alias/test", Message: text}
	a := b.want(c.do("Sign", req, new(nativepb.SignResponse)), 200, "")
	e, _ := b.auditLine(a.RequestId)
	got, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	for _, member := range []string{
		`"AccessKeyId":"` + c.id + `"`,
		`"Action":"AsymmetricSign"`,
		`"Algorithm":"ECDSA_SHA_256"`,
		`"Alias":"alias/test"`,
		`"Digest":"` + base64.StdEncoding.EncodeToString(hashMessage(t, b.public(b.key), text)) + `"`,
		`"Door":"native"`,
		`"KeyId":"` + b.key.KeyId + `"`,
		`"KeySpec":"EC_P256"`,
		`"KeyVersionId":"` + b.key.KeyVersionId + `"`,
		`"Principal":"aap:app"`,
		`"Protocol":"dkms-gcs"`,
		`"RequestId":"` + a.RequestId + `"`,
		`"Status":200`,
	} {
		if !strings.Contains(string(got), member) {
			t.Errorf("audit line %s, want it to contain %s", got, member)
		}
	}
	var verified nativepb.VerifyResponse
	verify := &nativepb.VerifyRequest{KeyId: "alias/test", Message: text, Signature: []byte{1}}
	a = b.want(c.do("Verify", verify, &verified), 200, "")
	e, _ = b.auditLine(a.RequestId)
	if e.Action != "AsymmetricVerify" || e.Valid == nil || *e.Valid || verified.Value {
		t.Errorf("Value %v, audit line %+v, want false and an AsymmetricVerify that is not valid", verified.Value, e)
	}
	a = b.want(c.do("Encrypt", &nativepb.SignRequest{}, nil), 400, "UnsupportedOperation")
	if e, _ := b.auditLine(a.RequestId); e.Action != "Encrypt" || e.Principal != "aap:app" {
		t.Errorf("audit line %+v, want Encrypt by aap:app", e)
	}
	unknown := c
	unknown.id = "KAAP.none"
	a = b.want(unknown.do("Sign", &nativepb.SignRequest{}, nil), 404, "Unauthorized")
	if e, _ := b.auditLine(a.RequestId); e.Principal != "" || e.AccessKeyId != "KAAP.none" || e.Door != "native" {
		t.Errorf("audit line %+v, want the native door, KAAP.none and no principal", e)
	}
}

// TestNativeQuota checks that the gateway charges a client key's requests to its access point, to
// the same quotas as requests of the RPC API.
func TestNativeQuota(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	b.newAccessPoint("other", []string{"key/*"})
	second, other := b.newNativeClient("app"), b.newNativeClient("other")
	b.listen(gateway.Listener{Gateway: gateway.SharedGateway, BusinessOnly: true})
	sign := func(c nativeClient) func() answer {
		return func() answer {
			req := &nativepb.SignRequest{KeyId: b.key.KeyId, Message: []byte{1}}
			return c.do("Sign", req, new(nativepb.SignResponse))
		}
	}
	if codes := b.countCodes(32, 224, sign(c)); codes[""] != 200 || codes[throttled] != 24 {
		t.Errorf("codes of 224 simultaneous requests: %v, want 200 successes and 24 %s", codes, throttled)
	}
	a := b.want(sign(second)(), 429, throttled)
	if e, _ := b.auditLine(a.RequestId); e.Quota != "asymmetric" || e.Principal != "aap:app" {
		t.Errorf("audit line %+v, want the quota asymmetric of aap:app", e)
	}
	if got := a.Header.Get("Retry-After"); got != "1" {
		t.Errorf("Retry-After %q, want 1", got)
	}
	b.want(second.do("GenerateRandom", &nativepb.GenerateRandomRequest{Length: 1}, nil), 429, throttled)
	req := &nativepb.GetPublicKeyRequest{KeyId: b.key.KeyId}
	b.want(second.do("GetPublicKey", req, new(nativepb.GetPublicKeyResponse)), 200, "")
	b.want(sign(other)(), 200, "")
	b.want(b.do(b.root, "AsymmetricSign", b.signParams()...), 200, "")
	b.clock.move(time.Second)
	b.want(sign(c)(), 200, "")
}

// TestNativeAuditFails checks that nothing is signed or generated while the audit log fails.
func TestNativeAuditFails(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	b.log.Close()
	for name, m := range map[string]proto.Message{
		"Sign":           &nativepb.SignRequest{KeyId: b.key.KeyId, Message: []byte{1}},
		"GenerateRandom": &nativepb.GenerateRandomRequest{Length: 1},
	} {
		if a := c.do(name, m, nil); a.Status != 503 || a.Code != "ServiceUnavailableTemporary" {
			t.Errorf("%s: %+v, want 503 ServiceUnavailableTemporary", name, a)
		}
	}
}

// TestNativeReplay sends the same request several times. The gateway answers each of them, because
// the SDKs depend on it, and gives each its RequestId, until the time of the request has passed.
func TestNativeReplay(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	body, err := proto.Marshal(&nativepb.SignRequest{KeyId: b.key.KeyId, Message: []byte("m")})
	if err != nil {
		t.Fatal(err)
	}
	r := c.request("Sign", body)
	resend := func() answer {
		t.Helper()
		r := r.Clone(t.Context())
		r.Body = io.NopCloser(bytes.NewReader(body))
		return b.nativeRoundTrip(b.http.Client(), r, new(nativepb.SignResponse))
	}
	first := b.want(resend(), 200, "")
	if second := b.want(resend(), 200, ""); second.RequestId == first.RequestId {
		t.Errorf("two requests have the RequestId %q, want different ones", first.RequestId)
	}
	b.clock.move(15 * time.Minute)
	b.want(resend(), 200, "")
	b.clock.move(time.Second)
	b.want(resend(), 400, "RequestTimeTooSkewed")
}
