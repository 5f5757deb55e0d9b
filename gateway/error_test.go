package gateway_test

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/store"
	"github.com/kmsgate/kmsgate/store/storetest"
)

// TestPrecedence sends requests with several errors at once. Each request is like the one before
// it, but without the cause of that one's error.
func TestPrecedence(t *testing.T) {
	b := newBench(t, func(c *gateway.Config) { c.Quotas.DedicatedUser = 1 })
	limited := b.newUser("limited", `{"Version":"1","Statement":[{"Effect":"Allow","Action":"kms:AsymmetricSign","Resource":"acs:kms:*:*:key/`+uuid.NewString()+`"}]}`)
	bad := b.signParams("KeyId", "none", "KeyVersionId", "none", "Algorithm", "none", "Digest", "none")

	tooLarge := strings.NewReader(strings.Repeat("a", gateway.MaxBody+1))
	b.want(b.send("PUT", "/path", tooLarge), 404, "InvalidApi.NotFound")
	b.want(b.send("PUT", "/?a=1&a=2", nil), 403, "UnsupportedHTTPMethod")
	inQuery := "/?AccessKeyId=unknown&Signature=x&a=1&a=2"
	b.want(b.send("POST", inQuery+strings.Repeat("a", gateway.MaxBody), nil), 413, "InvalidParameter")
	chunked := io.MultiReader(strings.NewReader(strings.Repeat("a", gateway.MaxBody-1))) // of unknown length
	b.want(b.send("POST", inQuery, chunked), 404, "InvalidAccessKeyId.NotFound")
	b.want(b.send("POST", "/?a=1&a=2", strings.NewReader("AccessKeyId=unknown&"+strings.Repeat("a", gateway.MaxBody))),
		413, "InvalidParameter")
	b.want(b.send("POST", "/?a=1&a=2", strings.NewReader("b=%zz&AccessKeyId=unknown")), 404, "InvalidAccessKeyId.NotFound")
	b.want(b.send("POST", "/?a=1&a=2", nil), 400, "ParseRequestParameterException")
	b.want(b.send("POST", "/?Signature=x", nil), 400, "IncompleteSignature")
	b.inHeaderPrecedence()

	send := func(c credential, action string, pairs ...string) answer {
		t.Helper()
		return b.send("GET", "/?"+b.sign(c, "GET", action, params(pairs...)).Encode(), nil)
	}
	wrong := credential{b.root.AccessKeyId, "wrong"}
	extend := func(more ...string) []string { return append(slices.Clone(bad), more...) }
	all := extend("SignatureMethod", "HMAC-MD5", "SecurityToken", "t", "Timestamp", "now")
	b.want(send(credential{"unknown", "wrong"}, "Nonsense", all...), 404, "InvalidAccessKeyId.NotFound")
	b.want(send(wrong, "Nonsense", all...), 400, "InvalidSignatureMethod")
	b.want(send(wrong, "Nonsense", extend("SecurityToken", "t", "Timestamp", "now")...), 400, "InvalidSecurityToken.Malformed")
	b.want(send(wrong, "Nonsense", extend("Timestamp", "now")...), 400, "InvalidTimeStamp.Format")
	b.want(send(wrong, "Nonsense", extend("Timestamp", "2026-11-21T20:41:36Z")...), 400, "InvalidTimeStamp.Expired")
	b.want(send(wrong, "Nonsense", bad...), 400, "SignatureDoesNotMatch")
	b.want(send(limited, "Nonsense", bad...), 404, "InvalidApi.NotFound")
	b.want(send(limited, "Encrypt", bad...), 400, "UnsupportedOperation")
	b.want(send(limited, "AsymmetricSign", b.signParams("Digest", "")...), 400, "MissingParameter")
	a := b.want(send(limited, "AsymmetricSign", bad...), 429, "Rejected.Throttling")
	if a.Header.Get("Retry-After") == "" {
		t.Error("got 429 without Retry-After")
	}
	next := func(code int, name string, changes ...string) answer {
		t.Helper()
		b.clock.move(time.Second) // refills the quota
		return b.want(send(limited, "AsymmetricSign", b.signParams(changes...)...), code, name)
	}
	next(400, "InvalidParameter", "KeyId", "alias/none", "Digest", "no")
	next(403, "Forbidden.NoPermission", "KeyId", "alias/none")
	next(403, "Forbidden.NoPermission", "KeyId", "none", "KeyVersionId", "none")
	limited = b.root
	next(404, "Forbidden.AliasNotFound", "KeyId", "alias/none", "KeyVersionId", "none")
	next(404, "Forbidden.KeyNotFound", "KeyId", "none", "KeyVersionId", "none")
	b.setKey(func(k *store.Key) { k.KeyState, k.KeyUsage = store.Disabled, "ENCRYPT/DECRYPT" })
	next(404, "Forbidden.KeyVersionNotFound", "KeyVersionId", "none", "Algorithm", "SM2DSA")
	next(409, "Rejected.Disabled", "Algorithm", "SM2DSA")
	b.setKey(func(k *store.Key) { k.KeyState = store.Enabled })
	next(400, "UnsupportedOperation", "Algorithm", "SM2DSA")
	b.setKey(func(k *store.Key) { k.KeyUsage = "SIGN/VERIFY" })
	next(400, "InvalidParameter", "Algorithm", "SM2DSA")
	b.backend.Fail(hsm.ErrBusy)
	next(400, "InvalidParameter", "Digest", "AAAA")
	next(503, "ServiceUnavailableTemporary")
	b.backend.Fail(nil)
	next(200, "")
}

// inHeaderPrecedence does the same with signatures in the Authorization header.
func (b *bench) inHeaderPrecedence() {
	b.t.Helper()
	unknown := credential{"unknown", "wrong"}
	send := func(c credential, body string, change ...func(h http.Header)) answer {
		b.t.Helper()
		r := b.signHeader(c, "Nonsense", body, change...)
		r.URL.RawQuery = "a=1&a=2"
		return b.roundTrip(r)
	}
	date := func(text string) func(h http.Header) { return func(h http.Header) { h.Set("x-acs-date", text) } }
	token := func(h http.Header) { h.Set("x-acs-security-token", "t") }
	method := func(h http.Header) { h.Set("Authorization", "ACS3-RSA-SHA256 x") }
	b.want(send(unknown, "a=3", date("now"), token, method), 400, "InvalidSignatureMethod")
	b.want(send(unknown, "a=3", date("now"), token), 400, "InvalidSecurityToken.Malformed")
	b.want(send(unknown, "a=3", date("now")), 400, "InvalidTimeStamp.Format")
	b.want(send(unknown, "a=3", date("2026-11-21T20:41:36Z")), 400, "InvalidTimeStamp.Expired")
	b.want(send(unknown, "a=3"), 404, "InvalidAccessKeyId.NotFound")
	wrong := credential{b.root.AccessKeyId, "wrong"}
	b.want(send(wrong, strings.Repeat("a", gateway.MaxBody+1)), 413, "InvalidParameter")
	b.want(send(wrong, "a=3"), 400, "ParseRequestParameterException")
	b.want(b.roundTrip(b.signHeader(wrong, "Nonsense", "Action=Other")), 400, "ParseRequestParameterException")
	b.want(b.roundTrip(b.signHeader(wrong, "Nonsense", "b=1")), 400, "SignatureDoesNotMatch")
}

// setKey changes the bench's key in the store.
func (b *bench) setKey(change func(k *store.Key)) {
	b.t.Helper()
	err := b.db.Update(func(tx *store.Tx) error {
		k, err := tx.Keys().Get(b.key.KeyId)
		if err != nil {
			return err
		}
		change(&k)
		return tx.Keys().Put(k)
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

func TestStates(t *testing.T) {
	b := newBench(t)
	for state, want := range map[string]struct {
		status      int
		code, alias string
	}{
		store.Enabled:         {200, "", ""},
		store.Disabled:        {409, "Rejected.Disabled", ""},
		store.PendingDeletion: {409, "Rejected.PendingDeletion", "Rejected.StateModifiedFailed"},
		store.PendingImport:   {409, "Rejected.PendingImport", ""},
		store.Unavailable:     {409, "Rejected.Unavailable", ""},
		"":                    {409, "Rejected.Unavailable", ""}, // a key in an unknown state must not sign
	} {
		b.setKey(func(k *store.Key) { k.KeyState = state })
		b.want(b.do(b.root, "AsymmetricSign", b.signParams()...), want.status, want.code)
		b.want(b.do(b.root, "AsymmetricVerify", b.signParams("Value", "AAAA")...), want.status, want.code)
		b.want(b.do(b.root, "GetPublicKey", "KeyId", b.key.KeyId, "KeyVersionId", b.key.KeyVersionId), want.status, want.code)
		if want.code != "" {
			a := b.want(b.do(b.root, "AsymmetricSign", b.signParams("DryRun", "true")...), 400, "ValidationError")
			if !strings.Contains(a.Message, want.code) {
				t.Errorf("state %q, dry run: got message %q, want %s in it", state, a.Message, want.code)
			}
		}
		b.want(b.do(b.root, "DescribeKey", "KeyId", b.key.KeyId), 200, "")
		a := b.do(b.root, "CreateAlias", "AliasName", "alias/of-"+state+"-", "KeyId", b.key.KeyId)
		if a.Code != want.alias {
			t.Errorf("state %q, CreateAlias: got %q, want %q", state, a.Code, want.alias)
		}
	}
}

// TestParameters sends invalid parameters. Each message must name the parameter.
func TestParameters(t *testing.T) {
	b := newBench(t)
	long := strings.Repeat("中", 8193)
	for _, tc := range []struct{ action, name, value, code string }{
		{"AsymmetricSign", "Digest", "AAAA", "InvalidParameter"},
		{"AsymmetricSign", "Digest", strings.TrimRight(digest, "="), "InvalidParameter"},
		{"AsymmetricSign", "Digest", digest + "\n", "InvalidParameter"},
		{"AsymmetricSign", "Digest", strings.Repeat("A", 100_000), "InvalidParameter"},
		{"AsymmetricSign", "Digest", base64.StdEncoding.EncodeToString(make([]byte, 33)), "InvalidParameter"},
		{"AsymmetricSign", "Algorithm", "ecdsa_sha_256", "InvalidParameter"},
		{"AsymmetricSign", "Algorithm", "RSA_PSS_SHA_256", "InvalidParameter"},
		{"AsymmetricSign", "KeyId", "", "MissingParameter"},
		{"AsymmetricSign", "KeyId", strings.Repeat("k", 100_000), "InvalidParameter"},
		{"AsymmetricSign", "KeyVersionId", "", "MissingParameter"},
		{"AsymmetricSign", "Algorithm", "", "MissingParameter"},
		{"AsymmetricSign", "Digest", "", "MissingParameter"},
		{"AsymmetricVerify", "Value", "", "MissingParameter"},
		{"AsymmetricVerify", "Value", "%%%%", "InvalidParameter"},
		{"AsymmetricSign", "Format", "YAML", "InvalidParameter"},
		{"GetPublicKey", "KeyVersionId", "", "MissingParameter"},
		{"DescribeKey", "KeyId", "", "MissingParameter"},
		{"ListKeyVersions", "KeyId", "", "MissingParameter"},
		{"ListKeyVersions", "PageSize", "101", "InvalidParameter"},
		{"ListKeys", "PageNumber", "-1", "InvalidParameter"},
		{"ListKeys", "PageNumber", "1e3", "InvalidParameter"},
		{"ListKeys", "PageNumber", "99999999999", "InvalidParameter"},
		{"ListKeys", "PageSize", "-5", "InvalidParameter"},
		{"ListKeys", "Filters", "[", "InvalidParameter"},
		{"ListKeys", "Filters", `[{"Key":"Color","Values":["red"]}]`, "InvalidParameter"},
		{"ListKeys", "Filters", `[{"Key":"KeyState","Values":[]}]`, "InvalidParameter"},
		{"ListAliases", "PageSize", "x", "InvalidParameter"},
		{"CreateKey", "KeyUsage", "SIGN", "InvalidParameter"},
		{"CreateKey", "Origin", "Nowhere", "InvalidParameter"},
		{"CreateKey", "ProtectionLevel", "NONE", "InvalidParameter"},
		{"CreateKey", "DKMSInstanceId", "kst-other", "InvalidParameter"},
		{"CreateKey", "Description", long, "InvalidParameter"},
		{"CreateKey", "Description", "\xff", "InvalidParameter"},
		{"CreateKey", "EnableAutomaticRotation", "maybe", "InvalidParameter"},
		{"CreateKey", "RotationInterval", "monthly", "InvalidParameter"},
		{"ListKeys", "PageNumber", "0", "InvalidParameter"},
		{"ListKeys", "PageSize", "0", "InvalidParameter"},
		{"AsymmetricSign", "Format", "jsonp", "InvalidParameter"},
		{"ScheduleKeyDeletion", "PendingWindowInDays", "6", "InvalidParameter"},
		{"ScheduleKeyDeletion", "PendingWindowInDays", "367", "InvalidParameter"},
		{"ScheduleKeyDeletion", "PendingWindowInDays", "", "MissingParameter"},
		{"SetDeletionProtection", "EnableDeletionProtection", "", "MissingParameter"},
		{"SetDeletionProtection", "ProtectedResourceArn", "", "MissingParameter"},
		{"SetDeletionProtection", "ProtectedResourceArn", "alias/test", "InvalidParameter"},
		{"SetDeletionProtection", "ProtectedResourceArn", "acs:kms:cn-hangzhou:1000000000000001:alias/test", "InvalidParameter"},
		{"TagResource", "Tags", "[]", "InvalidParameter"},
		{"TagResource", "Tags", `[{"TagKey":"a\u0001","TagValue":"v"}]`, "InvalidParameter"},
		{"UntagResource", "TagKeys", "null", "InvalidParameter"},
		{"TagResources", "ResourceId", `["x"]`, "InvalidParameter"}, // together with ResourceId.1
		{"UpdateKeyDescription", "Description", "a\x01b", "InvalidParameter"},
		{"SetDeletionProtection", "DeletionProtectionDescription", long, "InvalidParameter"},
		{"UpdateKeyDescription", "Description", long, "InvalidParameter"},
		{"UpdateAlias", "AliasName", "name", "InvalidParameter"},
		{"TagResource", "Tags", "", "MissingParameter"},
		{"TagResource", "Tags", "[]]", "InvalidParameter"},
		{"TagResource", "KeyId", "", "MissingParameter"},
		{"TagResource", "Tags", `[{"TagKey":"acs:x","TagValue":"v"}]`, "InvalidParameter"},
		{"UntagResource", "TagKeys", "k", "InvalidParameter"},
		{"TagResources", "ResourceType", "secret", "InvalidParameter"},
		{"TagResources", "RegionId", "cn-beijing", "InvalidParameter"},
		{"TagResources", "RegionId", "", "MissingParameter"},
		{"TagResources", "Tag", "{}", "InvalidParameter"},
		{"UntagResources", "All", "perhaps", "InvalidParameter"},
		{"SetKeyPolicy", "Policy", `{"Version":"1"}`, "InvalidParameter"},
		{"SetKeyPolicy", "Policy", "", "MissingParameter"},
		{"GetKmsInstance", "KmsInstanceId", "", "MissingParameter"},
		{"CreateKey", "KeySpec", "", "UnsupportedOperation"}, // KMS's default is a symmetric key
		{"CreateKey", "KeySpec", "Aliyun_AES_256", "UnsupportedOperation"},
		{"CreateKey", "KeyUsage", "ENCRYPT/DECRYPT", "UnsupportedOperation"},
		{"CreateKey", "Origin", "EXTERNAL", "UnsupportedOperation"},
		{"CreateKey", "EnableAutomaticRotation", "true", "UnsupportedOperation"},
		{"CreateKey", "Policy", "[]", "InvalidParameter"},
		{"CreateKey", "Tags", "{}", "InvalidParameter"},
		{"CreateKey", "Tags", `[{"TagKey":"","TagValue":"v"}]`, "InvalidParameter"},
		{"CreateKey", "Tags", `[{"TagKey":"k"},{"TagKey":"k"}]`, "InvalidParameter"},
		{"CreateAlias", "AliasName", "", "MissingParameter"},
		{"CreateAlias", "KeyId", "", "MissingParameter"},
		{"CreateAlias", "AliasName", "name", "InvalidParameter"},
		{"CreateAlias", "AliasName", "alias/", "InvalidParameter"},
		{"CreateAlias", "AliasName", "alias/acs/mine", "InvalidParameter"},
		{"CreateAlias", "AliasName", "alias/" + strings.Repeat("中", 250), "InvalidParameter"},
		{"CreateAlias", "AliasName", "alias/line\nbreak", "InvalidParameter"},
		{"CreateAlias", "AliasName", "alias/\xff", "InvalidParameter"},
		{"DeleteAlias", "AliasName", "name", "InvalidParameter"},
	} {
		p := params(b.scenario(tc.action)...)
		p[tc.name] = tc.value
		var pairs []string
		for name, value := range p {
			pairs = append(pairs, name, value)
		}
		a := b.want(b.do(b.root, tc.action, pairs...), 400, tc.code)
		if !strings.Contains(a.Message, `"`+tc.name+`"`) {
			t.Errorf("%s with %s %.20q: got message %q, want the parameter's name in it",
				tc.action, tc.name, tc.value, a.Message)
		}
	}
	b.want(b.do(b.root, "CreateKey", "KeySpec", "EC_SM2", "ProtectionLevel", "HSM"), 400, "UnsupportedOperation")
}

// TestFaults checks that the client gets an internal fault as an error of the API without details,
// and that the audit line has the reason.
func TestFaults(t *testing.T) {
	b := newBench(t)
	for _, tc := range []struct {
		fault  error
		status int
		code   string
	}{
		{hsm.ErrBusy, 503, "ServiceUnavailableTemporary"},
		{fmt.Errorf("the cable: %w", hsm.ErrUnavailable), 503, "ServiceUnavailableTemporary"},
		{errors.New("secret detail"), 500, "InternalFailure"},
		{hsmtest.ErrPanic, 500, "InternalFailure"},
		{hsm.ErrNotFound, 409, "Rejected.Unavailable"},
		{errors.New("secret detail"), 409, "Rejected.Unavailable"}, // the version is known to fail now
	} {
		b.backend.Fail(tc.fault)
		a := b.want(b.do(b.root, "AsymmetricSign", b.signParams()...), tc.status, tc.code)
		if strings.Contains(a.Message, "detail") || strings.Contains(a.Message, "cable") {
			t.Errorf("%v: got message %q, want no detail of the fault", tc.fault, a.Message)
		}
		if e, _ := b.auditLine(a.RequestId); !strings.Contains(e.Reason, "panic") && !strings.Contains(e.Reason, tc.fault.Error()) {
			t.Errorf("%v: got reason %q in the audit line, want the fault", tc.fault, e.Reason)
		}
		b.want(b.do(b.root, "AsymmetricSign", b.signParams("DryRun", "true")...), 400, "DryRunOperationError")
	}
	b.backend.Fail(nil)
	b.want(b.do(b.root, "AsymmetricSign", b.signParams()...), 200, "")
}

// TestMovedKeyPair puts the key pair of one key into the record of another, as an attacker could
// who can write to the database. The key must not sign.
func TestMovedKeyPair(t *testing.T) {
	b := newBench(t)
	made := b.do(b.root, "CreateKey", "KeySpec", "EC_P256")
	other := made.Body["KeyMetadata"].(map[string]any)["KeyId"].(string)
	err := b.db.Update(func(tx *store.Tx) error {
		mine, err := tx.Version(b.key.KeyId, b.key.KeyVersionId)
		if err != nil {
			return err
		}
		mine.Key = tx.VersionsOf(other)[0].Key
		return tx.Versions().Put(mine)
	})
	if err != nil {
		t.Fatal(err)
	}
	b.want(b.do(b.root, "AsymmetricSign", b.signParams()...), 409, "Rejected.Unavailable")
}

// TestNoDeadlineForEver checks that a request ends even if the token never answers.
func TestNoDeadlineForEver(t *testing.T) {
	b := newBench(t)
	b.backend.Fail(hsmtest.ErrHang)
	b.want(b.do(b.root, "AsymmetricSign", b.signParams()...), 503, "ServiceUnavailableTemporary")
}

// TestNoLineNoSignature checks that the gateway refuses everything and changes nothing while the
// audit log cannot be written, and that it works again afterwards.
func TestNoLineNoSignature(t *testing.T) {
	b := newBench(t)
	path := filepath.Join(b.dir, "audit.log")
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	refused := func(action string, p ...string) {
		t.Helper()
		a := b.do(b.root, action, p...)
		if a.Status != 503 || a.Code != "ServiceUnavailableTemporary" || a.Body["Value"] != nil || !strings.Contains(a.Message, "audit log") {
			t.Errorf("%s: got %v, want 503 that names the audit log", action, a.Body)
		}
	}
	refused("AsymmetricSign", b.signParams()...)
	refused("CreateAlias", "AliasName", "alias/unseen", "KeyId", b.key.KeyId)
	refused("DescribeKey", "KeyId", "none") // errors are refused, too
	if got := b.metric("kmsgate_audit_failing"); got != "1" {
		t.Errorf("kmsgate_audit_failing: got %s, want 1", got)
	}
	if status, text := b.observe("/ready"); status != 503 || !strings.Contains(text, "removed") {
		t.Errorf("/ready without the audit log: got %d %q, want 503 with the reason", status, text)
	}
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	b.eventually("the log to be written again", func() bool { return b.log.Err() == nil })
	b.want(b.do(b.root, "AsymmetricSign", b.signParams()...), 200, "")
	b.want(b.do(b.root, "CreateAlias", "AliasName", "alias/unseen", "KeyId", b.key.KeyId), 200, "")
	if status, text := b.observe("/ready"); status != 200 || text != "ok\n" || b.metric("kmsgate_audit_failing") != "0" {
		t.Errorf("/ready with the audit log: got %d %q, kmsgate_audit_failing %s, want 200 ok, 0",
			status, text, b.metric("kmsgate_audit_failing"))
	}
}

// observe requests a path of the metrics and health endpoint.
func (b *bench) observe(path string) (status int, text string) {
	b.t.Helper()
	w := httptest.NewRecorder()
	b.server.MetricsHandler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w.Code, w.Body.String()
}

func (b *bench) metric(name string) string {
	b.t.Helper()
	_, text := b.observe("/metrics")
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	b.t.Fatalf("there is no metric %s", name)
	return ""
}

func TestAccessKeys(t *testing.T) {
	b := newBench(t)
	b.want(b.do(credential{"KMSGNONE", "x"}, "ListKeys"), 404, "InvalidAccessKeyId.NotFound")
	other := b.newUser("other", "")
	b.want(b.do(credential{b.root.AccessKeyId, other.AccessKeySecret}, "ListKeys"), 400, "SignatureDoesNotMatch")
	b.want(b.do(other, "ListKeys"), 200, "")
	err := b.db.Update(func(tx *store.Tx) error {
		a, err := tx.AccessKeys().Get(other.AccessKeyId)
		if err != nil {
			return err
		}
		a.Active = false
		return tx.AccessKeys().Put(a)
	})
	if err != nil {
		t.Fatal(err)
	}
	b.want(b.do(other, "ListKeys"), 400, "InvalidAccessKeyId.Inactive")

	// A secret that was sealed for one access key must not work for another.
	err = b.db.Update(func(tx *store.Tx) error {
		root, err := tx.AccessKeys().Get(b.root.AccessKeyId)
		if err != nil {
			return err
		}
		root.AccessKeyId = "KMSGMOVED"
		return tx.AccessKeys().Put(root)
	})
	if err != nil {
		t.Fatal(err)
	}
	b.want(b.do(credential{"KMSGMOVED", b.root.AccessKeySecret}, "ListKeys"), 500, "InternalFailure")
	b.stop()
	if db, err := storetest.Open(b.dir + "/db"); err != nil {
		t.Fatal(err)
	} else {
		defer db.Close()
		cfg := gateway.Config{Store: db, Backend: b.backend, Sealer: b.backend, Audit: b.log}
		if _, err := gateway.New(t.Context(), cfg); err == nil {
			t.Error("New: got no error for a secret that was sealed for another access key")
		}
	}
}

func TestSignatureMismatch(t *testing.T) {
	b := newBench(t)
	a := b.want(b.do(credential{b.root.AccessKeyId, "wrong"}, "ListKeys"), 400, "SignatureDoesNotMatch")
	if strings.Contains(a.Message, "string to sign") {
		t.Errorf("got message %q, want no string to sign outside of development", a.Message)
	}
	dev := newBench(t, func(c *gateway.Config) { c.EchoStringToSign = true })
	a = dev.want(dev.do(credential{dev.root.AccessKeyId, "wrong"}, "ListKeys"), 400, "SignatureDoesNotMatch")
	if !strings.Contains(a.Message, "server string to sign is:GET&%2F&AccessKeyId") {
		t.Errorf("got message %q, want the string to sign in development", a.Message)
	}
}

// TestReplay repeats requests at once, at the end of their time window, and after a restart.
func TestReplay(t *testing.T) {
	b := newBench(t)
	sign := b.sign(b.root, "GET", "AsymmetricSign", params(b.signParams()...))
	create := b.sign(b.root, "GET", "CreateAlias", params("AliasName", "alias/once", "KeyId", b.key.KeyId))
	send := func(v url.Values) answer { return b.send("GET", "/?"+v.Encode(), nil) }

	// A nonce stays unused if another access key uses it, or if the signature is wrong.
	nonce := sign.Get("SignatureNonce")
	other := b.newUser("other", "")
	b.want(send(b.sign(other, "GET", "ListKeys", params("SignatureNonce", nonce))), 200, "")
	b.want(send(b.sign(credential{b.root.AccessKeyId, "wrong"}, "GET", "ListKeys", params("SignatureNonce", nonce))), 400, "SignatureDoesNotMatch")

	b.want(send(sign), 200, "")
	b.want(send(sign), 400, "SignatureNonceUsed")
	b.want(send(b.sign(b.root, "GET", "ListKeys", params("SignatureNonce", nonce))), 400, "SignatureNonceUsed")
	b.want(send(create), 200, "")
	b.want(b.do(b.root, "DeleteAlias", "AliasName", "alias/once"), 200, "")
	b.want(send(create), 400, "SignatureNonceUsed")

	b.stop()
	b.start()
	b.want(send(create), 400, "SignatureNonceUsed")
	b.clock.move(15 * time.Minute)
	b.want(send(create), 400, "SignatureNonceUsed")
	b.clock.move(time.Second)
	b.want(send(create), 400, "InvalidTimeStamp.Expired")
	b.clock.move(-30*time.Minute - 2*time.Second)
	b.want(send(create), 400, "InvalidTimeStamp.Expired")
}

// TestReplayFromTheFuture uses a nonce with a time stamp in the future. The gateway must remember
// the nonce as long as the time stamp is valid, and not for a fixed time after the first use.
func TestReplayFromTheFuture(t *testing.T) {
	b := newBench(t)
	future := b.clock.Now().Add(15 * time.Minute).Format("2006-01-02T15:04:05Z")
	v := b.sign(b.root, "GET", "ListKeys", params("Timestamp", future))
	b.want(b.send("GET", "/?"+v.Encode(), nil), 200, "")
	for range 30 {
		b.clock.move(time.Minute)
		b.want(b.do(b.root, "ListKeys"), 200, "") // lets the gateway forget expired nonces
		b.want(b.send("GET", "/?"+v.Encode(), nil), 400, "SignatureNonceUsed")
	}
	b.clock.move(time.Second)
	b.want(b.send("GET", "/?"+v.Encode(), nil), 400, "InvalidTimeStamp.Expired")
}

// TestNothingRevealed checks that a caller without permissions gets the same answer, apart from the
// RequestId, whether a key or an alias exists or not.
func TestNothingRevealed(t *testing.T) {
	b := newBench(t)
	nobody := b.newUser("nobody", `{"Version":"1","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"acs:kms:*:*:key/another"}]}`)
	ask := func(keyId string) string {
		a := b.do(nobody, "AsymmetricSign", b.signParams("KeyId", keyId)...)
		return fmt.Sprint(a.Status, a.Code, a.Message)
	}
	existing := ask(b.key.KeyId)
	for _, name := range []string{uuid.NewString(), "alias/test", "alias/none", "none", "acs:kms:cn-hangzhou:1000000000000001:alias/none"} {
		if got := ask(name); got != existing {
			t.Errorf("%s: got %s, want %s as for a key that exists", name, got, existing)
		}
	}
	for _, name := range []string{"alias/test", "alias/none"} {
		b.want(b.do(nobody, "DeleteAlias", "AliasName", name), 403, "Forbidden.NoPermission")
	}
}

// TestAliasNeedsBoth checks that changing an alias needs a permission for the alias and for the
// key.
func TestAliasNeedsBoth(t *testing.T) {
	b := newBench(t)
	allowOne := func(resource string) string {
		return `{"Version":"1","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"acs:kms:*:*:` + resource + `"}]}`
	}
	for i, resource := range []string{"alias/*", "key/*"} {
		c := b.newUser(fmt.Sprintf("half%d", i), allowOne(resource))
		b.want(b.do(c, "CreateAlias", "AliasName", "alias/x", "KeyId", b.key.KeyId), 403, "Forbidden.NoPermission")
		b.want(b.do(c, "DeleteAlias", "AliasName", "alias/test"), 403, "Forbidden.NoPermission")
	}
	b.want(b.do(b.root, "CreateAlias", "AliasName", "alias/test", "KeyId", b.key.KeyId), 400, "AliasAlreadyExists")
	b.want(b.do(b.root, "CreateAlias", "AliasName", "alias/test", "KeyId", b.key.KeyId, "DryRun", "true"),
		400, "ValidationError")
	b.want(b.do(b.root, "DeleteAlias", "AliasName", "alias/none"), 404, "Forbidden.AliasNotFound")
	b.want(b.do(b.root, "DeleteAlias", "AliasName", "alias/test"), 200, "")
	b.want(b.do(b.root, "DeleteAlias", "AliasName", "alias/test"), 404, "Forbidden.AliasNotFound")
	b.want(b.do(b.root, "AsymmetricSign", b.signParams()...), 200, "")
}

func TestLimits(t *testing.T) {
	b := newBench(t, func(c *gateway.Config) { c.MaxKeys, c.MaxAliases = 1, 1 })
	b.want(b.do(b.root, "CreateKey", "KeySpec", "EC_P256"), 400, "Rejected.LimitExceeded")
	b.want(b.do(b.root, "CreateAlias", "AliasName", "alias/x", "KeyId", b.key.KeyId), 400, "Rejected.LimitExceeded")
}

// TestCreationCutOff makes CreateKey fail halfway. Neither a key nor a key pair must remain after
// the next start.
func TestCreationCutOff(t *testing.T) {
	b := newBench(t)
	before := b.records()
	b.backend.Fail(hsm.ErrUnavailable) // a key pair can neither be created nor destroyed
	b.want(b.do(b.root, "CreateKey", "KeySpec", "EC_P256"), 503, "ServiceUnavailableTemporary")
	b.backend.Fail(nil)
	b.want(b.do(b.root, "ListKeys"), 200, "")
	if b.records() == before {
		t.Error("the orphan record is gone although the key pair could not be destroyed")
	}
	// A process that is killed after it created the key pair leaves the pair and the orphan record.
	id := uuid.New()
	if _, err := b.backend.Generate(t.Context(), hsm.EC_P256, id[:]); err != nil {
		t.Fatal(err)
	}
	err := b.db.Update(func(tx *store.Tx) error {
		return tx.Orphans().Put(store.Orphan{KeyVersionId: id.String(), Key: hsm.Key{ID: id[:], Spec: hsm.EC_P256}})
	})
	if err != nil {
		t.Fatal(err)
	}
	b.stop()
	b.start()
	b.server.CarryOutDeletions(t.Context())
	if after := b.records(); after != before || b.backend.Len() != 1 {
		t.Errorf("after the next start: got %s and %d key pairs, want %s and 1", after, b.backend.Len(), before)
	}
}

func TestRouting(t *testing.T) {
	b := newBench(t)
	b.want(b.send("GET", "/health", nil), 404, "InvalidApi.NotFound")
	b.want(b.send("GET", "//", nil), 404, "InvalidApi.NotFound")
	b.want(b.send("GET", "/%2e%2e/", nil), 404, "InvalidApi.NotFound")
	for _, method := range []string{"PUT", "DELETE", "PATCH", "OPTIONS", "NONSENSE"} {
		b.want(b.send(method, "/", nil), 403, "UnsupportedHTTPMethod")
	}
	b.want(b.send("GET", "/?Action="+strings.Repeat("a", gateway.MaxBody), nil), 413, "InvalidParameter")

	// The body of this request ends early.
	conn, err := tls.Dial("tcp", b.http.Listener.Addr().String(), &tls.Config{RootCAs: pool(b), ServerName: "example.com"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nAction=ListKeys"); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	b.want(readAnswer(t, resp), 400, "ParseRequestParameterException")
}
