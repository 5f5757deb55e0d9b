package gateway_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/gateway/limit"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/store"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

var instance = store.Instance{InstanceId: "kst-test", RegionId: "cn-hangzhou", AccountId: "1000000000000001"}

// A bench is a gateway on a fake backend, with everything else real: bbolt, the
// audit log, TLS. Its directory can be taken over by a second one.
type bench struct {
	t       testing.TB
	dir     string
	db      *store.Store
	log     *audit.Log
	backend *hsmtest.Fake
	server  *gateway.Server
	http    *httptest.Server
	// how Handler serves; a test that changes it starts anew
	listener gateway.Listener
	clock    clock
	root     credential
	key      testKey // EC_P256, alias/test
}

type credential struct{ AccessKeyId, AccessKeySecret string }

type testKey struct{ KeyId, KeyVersionId string }

// A clock stands still until it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time // guarded by mu
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// newBench starts a gateway with a user of full rights and one key.
func newBench(t testing.TB, change ...func(*gateway.Config)) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), backend: new(hsmtest.Fake)}
	b.clock.now = time.Date(2026, 11, 21, 20, 56, 37, 0, time.UTC)
	b.start(change...)
	b.root = b.newUser("root", "")
	var made struct{ KeyMetadata struct{ KeyId string } }
	b.local("CreateKey", &made, "KeySpec", "EC_P256")
	b.key.KeyId = made.KeyMetadata.KeyId
	b.local("CreateAlias", nil, "AliasName", "alias/test", "KeyId", b.key.KeyId)
	b.key.KeyVersionId = b.versions(b.key.KeyId)[0]
	return b
}

func (b *bench) start(change ...func(*gateway.Config)) {
	b.t.Helper()
	b.open(change...)
	b.http = httptest.NewTLSServer(b.server.Handler(b.listener))
	b.http.Client().Transport.(*http.Transport).MaxIdleConnsPerHost = 64 // some tests send as many requests at once
	b.t.Cleanup(b.stop)
}

// open makes the gateway, without anything that listens.
func (b *bench) open(change ...func(*gateway.Config)) {
	b.t.Helper()
	var err error
	if b.db, err = store.Open(filepath.Join(b.dir, "db")); err != nil {
		b.t.Fatal(err)
	}
	if err := b.db.Update(func(tx *store.Tx) error { return tx.SetInstance(instance) }); err != nil {
		b.t.Fatal(err)
	}
	if b.log, err = audit.Open(audit.Config{Path: filepath.Join(b.dir, "audit.log"), Logger: quiet}); err != nil {
		b.t.Fatal(err)
	}
	cfg := gateway.Config{Store: b.db, Backend: b.backend, Sealer: b.backend, Random: b.backend, Inspector: b.backend, Audit: b.log, Now: b.clock.Now, MinVersionInterval: -1,
		Logger: quiet, LogLines: limit.LogLines{PerSource: 1e6, Total: 1e6}, Archiver: &fakeArchiver{backend: b.backend}}
	for _, f := range change {
		f(&cfg)
	}
	if b.server, err = gateway.New(b.t.Context(), cfg); err != nil {
		b.t.Fatal(err)
	}
}

// stop ends the gateway; it may be called again.
func (b *bench) stop() {
	if b.http == nil {
		return
	}
	b.http.Close()
	b.http = nil
	b.shut()
}

// shut closes what open has opened.
func (b *bench) shut() {
	if err := b.log.Close(); err != nil {
		b.t.Error(err)
	}
	if err := b.db.Close(); err != nil {
		b.t.Error(err)
	}
}

// params makes a map of names and values.
func params(pairs ...string) map[string]string {
	m := make(map[string]string)
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return m
}

func (b *bench) local(action string, resp any, pairs ...string) {
	b.t.Helper()
	if err := b.server.Call(b.t.Context(), action, params(pairs...), resp); err != nil {
		b.t.Fatalf("%s: %v", action, err)
	}
}

// newUser makes a user with one policy, full access if it is empty, and an
// access key.
func (b *bench) newUser(name, document string) (c credential) {
	b.t.Helper()
	policyName := "AliyunKMSFullAccess"
	b.local("CreateUser", nil, "UserName", name)
	if document != "" {
		policyName = "policy-of-" + name
		b.local("CreateRamPolicy", nil, "PolicyName", policyName, "PolicyDocument", document)
	}
	b.local("AttachPolicyToUser", nil, "UserName", name, "PolicyName", policyName)
	b.local("CreateAccessKey", &c, "UserName", name)
	return c
}

func (b *bench) versions(keyId string) (ids []string) {
	for _, v := range b.db.Now().VersionsOf(keyId) {
		ids = append(ids, v.KeyVersionId)
	}
	return ids
}

// An answer is what a client gets.
type answer struct {
	Status    int
	RequestId string // of the body
	Code      string
	Message   string
	Body      map[string]any
	Header    http.Header
}

// sign signs parameters by signature version 1.0, written here a second time,
// from the documentation.
func (b *bench) sign(c credential, method, action string, parameters map[string]string) url.Values {
	v := url.Values{"Action": {action}, "Version": {"2016-01-20"}, "AccessKeyId": {c.AccessKeyId},
		"SignatureMethod": {"HMAC-SHA1"}, "SignatureVersion": {"1.0"}, "SignatureNonce": {uuid.NewString()},
		"Timestamp": {b.clock.Now().Format("2006-01-02T15:04:05Z")}}
	for name, value := range parameters {
		v.Set(name, value)
	}
	escape := func(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(v)) {
		parts = append(parts, escape(name)+"="+escape(v.Get(name)))
	}
	mac := hmac.New(sha1.New, []byte(c.AccessKeySecret+"&"))
	mac.Write([]byte(method + "&%2F&" + escape(strings.Join(parts, "&"))))
	v.Set("Signature", base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	return v
}

// do sends a signed request.
func (b *bench) do(c credential, action string, pairs ...string) answer {
	b.t.Helper()
	return b.send("GET", "/?"+b.sign(c, "GET", action, params(pairs...)).Encode(), nil)
}

func (b *bench) send(method, path string, body io.Reader) answer {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), method, b.http.URL+path, body)
	if err != nil {
		b.t.Fatal(err)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return b.roundTrip(r)
}

func (b *bench) roundTrip(r *http.Request) answer {
	b.t.Helper()
	resp, err := b.http.Client().Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	return readAnswer(b.t, resp)
}

// readAnswer checks what every answer must have.
func readAnswer(t testing.TB, resp *http.Response) answer {
	t.Helper()
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	a := answer{Status: resp.StatusCode, Header: resp.Header}
	if err := json.Unmarshal(text, &a.Body); err != nil {
		t.Fatalf("status %d with a body that is no JSON object: %q", resp.StatusCode, text)
	}
	if ct := resp.Header.Get("Content-Type"); ct != "application/json;charset=utf-8" {
		t.Errorf("Content-Type %q", ct)
	}
	member := func(name string) string { s, _ := a.Body[name].(string); return s }
	a.RequestId, a.Code, a.Message = member("RequestId"), member("Code"), member("Message")
	if a.RequestId == "" || a.RequestId != resp.Header.Get("x-acs-request-id") {
		t.Errorf("RequestId %q in the body and %q in the header", a.RequestId, resp.Header.Get("x-acs-request-id"))
	}
	if a.Status != 200 {
		if a.Code == "" || a.Message == "" || a.Body["HttpStatus"] != float64(a.Status) || member("HostId") == "" {
			t.Errorf("an error needs HttpStatus, Code, Message and HostId: %s", text)
		}
	} else if _, has := a.Body["Code"]; has {
		t.Errorf("a success has a Code, which one client takes for an error: %s", text)
	}
	return a
}

// want checks an answer's status and code, and that its audit line agrees.
func (b *bench) want(a answer, status int, code string) answer {
	b.t.Helper()
	if b.t.Helper(); a.Status != status || a.Code != code {
		b.t.Errorf("%d %s %q, want %d %s", a.Status, a.Code, a.Message, status, code)
	}
	e, ok := b.auditLine(a.RequestId)
	if !ok || e.Status != a.Status || e.Code != a.Code {
		b.t.Errorf("the audit line of request %s says %d %s (there: %v), the answer %d %s", a.RequestId, e.Status, e.Code, ok, a.Status, a.Code)
	}
	return a
}

// auditLine waits for a request's line: those of strangers are not waited for by
// the gateway.
func (b *bench) auditLine(requestId string) (line audit.Entry, ok bool) {
	b.t.Helper()
	b.eventually("the audit line of "+requestId, func() bool {
		for _, e := range b.auditLines() {
			if e.RequestId == requestId {
				line, ok = e, true
			}
		}
		return ok
	})
	return line, ok
}

// eventually waits until a condition holds, or fails the test after 30 s.
func (b *bench) eventually(what string, holds func() bool) {
	b.t.Helper()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(30 * time.Second); !holds(); <-poll.C {
		if time.Now().After(deadline) {
			b.t.Fatalf("waited 30 s for %s", what)
		}
	}
}

// auditLines returns the audit log's lines of requests.
func (b *bench) auditLines() (entries []audit.Entry) {
	b.t.Helper()
	entries, _ = b.readAudit()
	return entries
}

// readAudit returns the audit log's lines of requests, and those of the log itself.
func (b *bench) readAudit() (entries []audit.Entry, events []audit.Event) {
	b.t.Helper()
	content, err := os.ReadFile(filepath.Join(b.dir, "audit.log"))
	if err != nil {
		b.t.Fatal(err)
	}
	for text := range bytes.Lines(content) {
		if !bytes.HasSuffix(text, []byte{'\n'}) {
			break // it is being written
		}
		var line audit.Line
		if err := json.Unmarshal(text, &line); err != nil {
			b.t.Fatalf("audit line %q: %v", text, err)
		}
		if line.Event != nil {
			events = append(events, *line.Event)
		} else {
			entries = append(entries, *line.Entry)
		}
	}
	return entries, events
}

var digest = base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, hsm.DigestSize))

// signParams are the parameters of AsymmetricSign with the bench's key, with
// some changed; an empty value leaves one out.
func (b *bench) signParams(changes ...string) []string {
	p := params("KeyId", b.key.KeyId, "KeyVersionId", b.key.KeyVersionId, "Algorithm", "ECDSA_SHA_256", "Digest", digest)
	for i := 0; i < len(changes); i += 2 {
		if p[changes[i]] = changes[i+1]; changes[i+1] == "" {
			delete(p, changes[i])
		}
	}
	var pairs []string
	for name, value := range p {
		pairs = append(pairs, name, value)
	}
	return pairs
}

func TestSignAndVerify(t *testing.T) {
	b := newBench(t)
	for _, spec := range hsm.KeySpecs() {
		made := b.want(b.do(b.root, "CreateKey", "KeySpec", string(spec)), 200, "")
		keyId := made.Body["KeyMetadata"].(map[string]any)["KeyId"].(string)
		version := b.versions(keyId)[0]
		for _, alg := range hsm.Algorithms(spec) {
			p := []string{"KeyId", keyId, "KeyVersionId", version, "Algorithm", string(alg), "Digest", digest}
			signed := b.want(b.do(b.root, "AsymmetricSign", p...), 200, "")
			value := signed.Body["Value"].(string)
			if signed.Body["KeyId"] != keyId || signed.Body["KeyVersionId"] != version {
				t.Errorf("%s: the answer is of key %v, version %v", alg, signed.Body["KeyId"], signed.Body["KeyVersionId"])
			}
			verify := func(digest, value string, want bool) {
				t.Helper()
				p := []string{"KeyId", keyId, "KeyVersionId", version, "Algorithm", string(alg), "Digest", digest, "Value", value}
				if a := b.want(b.do(b.root, "AsymmetricVerify", p...), 200, ""); a.Body["Value"] != want {
					t.Errorf("%s %s: Value %v, want %v", spec, alg, a.Body["Value"], want)
				}
			}
			verify(digest, value, true)
			verify(base64.StdEncoding.EncodeToString(make([]byte, 32)), value, false)
			verify(digest, "AAAA", false) // malformed is wrong, not an error
			e, _ := b.auditLine(signed.RequestId)
			if e.Principal != "root" || e.KeyId != keyId || e.KeyVersionId != version || e.Algorithm != string(alg) ||
				base64.StdEncoding.EncodeToString(e.Digest) != digest || e.Source != "127.0.0.1" || e.Action != "AsymmetricSign" || e.KeySpec != string(spec) {
				t.Errorf("audit line %+v", e)
			}
		}
	}
}

// TestWaysToSend sends one operation by GET, by POST in the query, in the form,
// and spread over both.
func TestWaysToSend(t *testing.T) {
	b := newBench(t)
	signed := func(method string) url.Values {
		return b.sign(b.root, method, "AsymmetricSign", params(b.signParams("RegionId", "cn-hangzhou", "Unknown", "a b*c+d~e中'()!", "Format", "json")...))
	}
	b.want(b.send("GET", "/?"+signed("GET").Encode(), nil), 200, "")
	b.want(b.send("POST", "/?"+signed("POST").Encode(), nil), 200, "")
	b.want(b.send("POST", "/?"+signed("POST").Encode(), strings.NewReader("")), 200, "")
	b.want(b.send("POST", "/", strings.NewReader(signed("POST").Encode())), 200, "")
	v := signed("POST")
	query := url.Values{"Action": v["Action"], "KeyId": v["KeyId"]}
	v.Del("Action")
	v.Del("KeyId")
	b.want(b.send("POST", "/?"+query.Encode(), strings.NewReader(v.Encode())), 200, "")
}

// TestKeyNames names the key in every way.
func TestKeyNames(t *testing.T) {
	b := newBench(t)
	const account = "acs:kms:cn-hangzhou:1000000000000001:"
	for _, name := range []string{b.key.KeyId, "alias/test", account + "key/" + b.key.KeyId, account + "alias/test"} {
		a := b.want(b.do(b.root, "AsymmetricSign", b.signParams("KeyId", name)...), 200, "")
		if a.Body["KeyId"] != b.key.KeyId {
			t.Errorf("%s: the answer is of key %v", name, a.Body["KeyId"])
		}
	}
	for name, code := range map[string]string{
		"alias/none":     "Forbidden.AliasNotFound",
		"alias/":         "Forbidden.AliasNotFound",
		uuid.NewString(): "Forbidden.KeyNotFound",
		"acs:kms:cn-hangzhou:2000000000000002:key/" + b.key.KeyId: "Forbidden.KeyNotFound",
		"acs:kms:cn-beijing:1000000000000001:key/" + b.key.KeyId:  "Forbidden.KeyNotFound",
		"acs:kms:cn-hangzhou:1000000000000001:secret/test":        "Forbidden.KeyNotFound",
		strings.ToUpper(b.key.KeyId):                              "Forbidden.KeyNotFound",
	} {
		b.want(b.do(b.root, "AsymmetricSign", b.signParams("KeyId", name)...), 404, code)
	}
}

// scenario makes what an operation needs to succeed, and gives its parameters.
func (b *bench) scenario(action string) []string {
	b.t.Helper()
	if slices.Contains(accessPointOperations, action) {
		return b.accessPointScenario(action)
	}
	var made struct{ KeyMetadata struct{ KeyId string } }
	b.local("CreateKey", &made, "KeySpec", "EC_P256", "Tags", `[{"TagKey":"k","TagValue":"v"}]`)
	keyId := made.KeyMetadata.KeyId
	alias := "alias/" + keyId
	b.local("CreateAlias", nil, "AliasName", alias, "KeyId", keyId)
	if action == "CancelKeyDeletion" {
		b.local("ScheduleKeyDeletion", nil, "KeyId", keyId, "PendingWindowInDays", "7")
	}
	key := []string{"KeyId", keyId}
	version := []string{"KeyId", keyId, "KeyVersionId", b.versions(keyId)[0]}
	resources := []string{"RegionId", "cn-hangzhou", "ResourceType", "key", "ResourceId.1", keyId}
	return map[string][]string{
		"AsymmetricSign":           b.signParams(),
		"AsymmetricVerify":         b.signParams("Value", "AAAA"),
		"GetPublicKey":             version,
		"CreateKey":                {"KeySpec", "EC_P256"},
		"DescribeKey":              key,
		"ListKeys":                 {},
		"EnableKey":                key,
		"DisableKey":               key,
		"ScheduleKeyDeletion":      append(key, "PendingWindowInDays", "7"),
		"CancelKeyDeletion":        key,
		"SetDeletionProtection":    {"ProtectedResourceArn", "acs:kms:cn-hangzhou:1000000000000001:key/" + keyId, "EnableDeletionProtection", "true"},
		"UpdateKeyDescription":     append(key, "Description", "new"),
		"CreateKeyVersion":         key,
		"DescribeKeyVersion":       version,
		"ListKeyVersions":          key,
		"CreateAlias":              {"AliasName", alias + "-new", "KeyId", keyId},
		"UpdateAlias":              {"AliasName", alias, "KeyId", b.key.KeyId},
		"DeleteAlias":              {"AliasName", alias},
		"ListAliases":              {},
		"ListAliasesByKeyId":       key,
		"TagResource":              append(key, "Tags", `[{"TagKey":"a","TagValue":"b"}]`),
		"UntagResource":            append(key, "TagKeys", `["k"]`),
		"ListResourceTags":         key,
		"TagResources":             append(resources, "Tag.1.Key", "a", "Tag.1.Value", "b"),
		"UntagResources":           append(resources, "TagKey.1", "k"),
		"ListTagResources":         resources,
		"SetKeyPolicy":             append(key, "Policy", keyPolicy),
		"GetKeyPolicy":             key,
		"DescribeRegions":          {},
		"DescribeAccountKmsStatus": {},
		"OpenKmsService":           {},
		"GetKmsInstance":           {"KmsInstanceId", instance.InstanceId},
		"ListKmsInstances":         {},
	}[action]
}

const keyPolicy = `{"Version":"1","Statement":[{"Sid":"one","Effect":"Allow","Principal":{"RAM":["acs:ram::1000000000000001:user/dev"]},"Action":["kms:AsymmetricSign","kms:Get*"],"Resource":["*"]}]}`

// TestEveryOperation walks the table: each row refuses a stranger and a user
// without a policy for it, obeys DryRun, and leaves an audit line (want looks
// for it); and succeeds for who may.
func TestEveryOperation(t *testing.T) {
	b := newBench(t)
	nobody := b.newUser("nobody", `{"Version":"1","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}`)
	for _, action := range operationsOf(kms.RPC) {
		t.Run(action, func(t *testing.T) {
			p := b.scenario(action)
			if p == nil {
				t.Fatal("the test does not know parameters for this operation")
			}
			with := func(dryRun string) []string { return append(slices.Clone(p), "DryRun", dryRun) }
			before, pairs := b.records(), b.backend.Len()
			b.want(b.send("GET", "/?Action="+action+"&Version=2016-01-20", nil), 400, "IncompleteSignature")
			b.want(b.do(credential{b.root.AccessKeyId, "wrong"}, action, p...), 400, "SignatureDoesNotMatch")
			b.want(b.do(credential{b.root.AccessKeyId, "wrong"}, action, with("true")...), 400, "SignatureDoesNotMatch")
			if action != "DescribeRegions" { // in KMS too it needs authentication only
				b.want(b.do(nobody, action, p...), 403, "Forbidden.NoPermission")
				b.want(b.do(nobody, action, with("true")...), 403, "AccessDeniedError")
			}
			b.want(b.do(b.root, action, with("true")...), 400, "DryRunOperationError")
			b.want(b.do(b.root, action, with("True")...), 400, "DryRunOperationError")
			b.want(b.do(b.root, action, with("yes")...), 400, "InvalidParameter")
			if got := b.records(); got != before || b.backend.Len() != pairs {
				t.Errorf("refused calls and dry runs left %d key pairs and %s, before: %d and %s", b.backend.Len(), got, pairs, before)
			}
			b.want(b.do(b.root, action, p...), 200, "")
		})
	}
}

// records writes down what the store holds.
func (b *bench) records() (s string) {
	records := b.db.Now()
	s = fmt.Sprintf("%v %v %v", records.Keys().Page(0, 1000), records.Aliases().Page(0, 1000), slices.Collect(records.Orphans().All()))
	s += fmt.Sprintf("%v %v %v %v", records.NetworkRules().Page(0, 1000), records.PermissionPolicies().Page(0, 1000), records.AccessPoints().Page(0, 1000), slices.Collect(records.ClientKeys().All()))
	for k := range records.Keys().All() {
		s += fmt.Sprintf(" %d", len(records.VersionsOf(k.KeyId)))
	}
	return s
}

func TestUnsupported(t *testing.T) {
	b := newBench(t)
	for _, action := range kms.Unsupported {
		b.want(b.do(b.root, action), 400, "UnsupportedOperation")
		if slices.Contains(operationsOf(kms.RPC), action) {
			t.Errorf("%s is both an operation and not supported", action)
		}
	}
	for _, action := range []string{"Sign", "asymmetricsign", "CreateUser", "CreateAccessKey", strings.Repeat("x", 10_000)} {
		b.want(b.do(b.root, action), 404, "InvalidApi.NotFound")
	}
	b.want(b.do(b.root, ""), 400, "MissingParameter")
	b.want(b.do(b.root, "ListKeys", "Version", "2099-01-01"), 404, "InvalidApi.NotFound")
}

// TestPlainHTTP: without TLS nothing is answered but that.
func TestPlainHTTP(t *testing.T) {
	b := newBench(t)
	plain := httptest.NewServer(b.server.Handler(b.listener))
	defer plain.Close()
	resp, err := http.Get(plain.URL + "/?" + b.sign(b.root, "GET", "ListKeys", nil).Encode())
	if err != nil {
		t.Fatal(err)
	}
	b.want(readAnswer(t, resp), 404, "InvalidProtocol.NeedSsl")
}

// operationsOf returns the names of the operations that can be had through a door and no
// more public one.
func operationsOf(door kms.Door) (names []string) {
	for _, o := range kms.Operations {
		if o.Door == door {
			names = append(names, o.Name)
		}
	}
	slices.Sort(names)
	return names
}

// TestImplemented: every operation that is described has a function, and no other.
func TestImplemented(t *testing.T) {
	var described []string
	for _, o := range kms.Operations {
		described = append(described, o.Name)
	}
	slices.Sort(described)
	if diff := cmp.Diff(described, gateway.Implemented()); diff != "" {
		t.Error(diff)
	}
}
