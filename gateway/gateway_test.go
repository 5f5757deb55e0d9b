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
	"github.com/kmsgate/kmsgate/store/storetest"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

var instance = store.Instance{InstanceId: "kst-test", RegionId: "cn-hangzhou", AccountId: "1000000000000001"}

// A bench is a gateway on a fake backend. Everything else is real: bbolt, the audit log, TLS. It
// can be stopped and started again on its directory.
type bench struct {
	t       testing.TB
	dir     string
	disk    storetest.Disk
	db      *store.Store
	log     *audit.Log
	backend *hsmtest.Fake
	server  *gateway.Server
	http    *httptest.Server
	// listener is the configuration of the handler. A test that changes it must start the bench
	// again.
	listener gateway.Listener
	// auditConfig, if not nil, changes the configuration of the audit log at the next start.
	auditConfig func(*audit.Config)
	clock       clock
	root        credential
	key         testKey // EC_P256, alias/test
}

type credential struct{ AccessKeyId, AccessKeySecret string }

type testKey struct{ KeyId, KeyVersionId string }

// A clock stands still until the test moves it.
type clock struct {
	mu   sync.Mutex
	now  time.Time     // guarded by mu
	seen time.Duration // guarded by mu
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Seen returns the time that was seen to pass: as much as move has moved the clock, but not jump.
func (c *clock) Seen() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen
}

// jump moves only the clock.
func (c *clock) jump(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now, c.seen = c.now.Add(d), c.seen+d
}

// newBench starts a gateway with a user, root, that has full access, and one key.
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
	b.http.Client().Transport.(*http.Transport).MaxIdleConnsPerHost = 64 // some tests send 64 requests at once
	b.t.Cleanup(b.stop)
}

// open creates the gateway without a listener.
func (b *bench) open(change ...func(*gateway.Config)) {
	b.t.Helper()
	var err error
	if b.db, err = b.disk.Open(filepath.Join(b.dir, "db")); err != nil {
		b.t.Fatal(err)
	}
	if err := b.db.Update(func(tx *store.Tx) error { return tx.SetInstance(instance) }); err != nil {
		b.t.Fatal(err)
	}
	logConfig := audit.Config{Path: filepath.Join(b.dir, "audit.log"), AppendTimeout: time.Minute, Logger: quiet}
	if b.auditConfig != nil {
		b.auditConfig(&logConfig)
	}
	if b.log, err = audit.Open(logConfig); err != nil {
		b.t.Fatal(err)
	}
	cfg := gateway.Config{
		Store:              b.db,
		Backend:            b.backend,
		Sealer:             b.backend,
		Random:             b.backend,
		Inspector:          b.backend,
		Audit:              b.log,
		Now:                b.clock.Now,
		Seen:               b.clock.Seen,
		MinVersionInterval: -1,
		Logger:             quiet,
		LogLines:           limit.LogLines{PerSource: 1e6, Total: 1e6, PerCaller: 1e6},
		Archiver:           &fakeArchiver{backend: b.backend},
	}
	for _, f := range change {
		f(&cfg)
	}
	if b.server, err = gateway.New(b.t.Context(), cfg); err != nil {
		b.t.Fatal(err)
	}
}

// stop ends the gateway. Further calls do nothing.
func (b *bench) stop() {
	if b.http == nil {
		return
	}
	b.http.Close()
	b.http = nil
	b.shut()
}

// shut closes the log and the database.
func (b *bench) shut() {
	if err := b.log.Close(); err != nil {
		b.t.Error(err)
	}
	if err := b.db.Close(); err != nil {
		b.t.Error(err)
	}
}

// params returns a map of alternating names and values.
func params(pairs ...string) map[string]string {
	m := make(map[string]string)
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return m
}

// local calls an operation through the local door. It must succeed.
func (b *bench) local(action string, resp any, pairs ...string) {
	b.t.Helper()
	request := kms.AdminRequest{Action: action, Parameters: params(pairs...), AsAdministrator: true}
	if err := b.server.Do(b.t.Context(), request, resp); err != nil {
		b.t.Fatalf("%s: %v", action, err)
	}
}

// newUser creates a user with one policy, which allows everything if document is empty, and an
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

// An answer is the gateway's response to a request.
type answer struct {
	Status    int
	RequestId string // from the body
	Code      string
	Message   string
	Body      map[string]any
	Header    http.Header
}

// sign signs parameters with signature version 1.0. It is a second implementation, written from the
// documentation.
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

// readAnswer reads a response and checks the members and headers that every answer must have.
func readAnswer(t testing.TB, resp *http.Response) answer {
	t.Helper()
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	a := answer{Status: resp.StatusCode, Header: resp.Header}
	if err := json.Unmarshal(text, &a.Body); err != nil {
		t.Fatalf("status %d: got body %q, want a JSON object", resp.StatusCode, text)
	}
	if ct := resp.Header.Get("Content-Type"); ct != "application/json;charset=utf-8" {
		t.Errorf("got Content-Type %q, want application/json;charset=utf-8", ct)
	}
	member := func(name string) string { s, _ := a.Body[name].(string); return s }
	a.RequestId, a.Code, a.Message = member("RequestId"), member("Code"), member("Message")
	if a.RequestId == "" || a.RequestId != resp.Header.Get("x-acs-request-id") {
		t.Errorf("got RequestId %q in the body and %q in the header, want the same",
			a.RequestId, resp.Header.Get("x-acs-request-id"))
	}
	if a.Status != 200 {
		if a.Code == "" || a.Message == "" || a.Body["HttpStatus"] != float64(a.Status) || member("HostId") == "" {
			t.Errorf("got error %s, want HttpStatus, Code, Message and HostId in it", text)
		}
	} else if _, has := a.Body["Code"]; has {
		t.Errorf("got success %s, want no Code: one client takes it for an error", text)
	}
	return a
}

// want checks the status and code of an answer, and that its audit line agrees. It returns the
// answer.
func (b *bench) want(a answer, status int, code string) answer {
	b.t.Helper()
	if b.t.Helper(); a.Status != status || a.Code != code {
		b.t.Errorf("got %d %s %q, want %d %s", a.Status, a.Code, a.Message, status, code)
	}
	e, ok := b.auditLine(a.RequestId)
	if !ok || e.Status != a.Status || e.Code != a.Code {
		b.t.Errorf("audit line of request %s: got %d %s (found: %v), want %d %s as in the answer",
			a.RequestId, e.Status, e.Code, ok, a.Status, a.Code)
	}
	return a
}

// auditLine waits for the audit line of a request and returns it. It has to wait because the
// gateway answers an unauthenticated caller before the line is written.
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
func (b *bench) eventually(name string, holds func() bool) {
	b.t.Helper()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(30 * time.Second); !holds(); <-poll.C {
		if time.Now().After(deadline) {
			b.t.Fatalf("waited 30 s in vain for %s", name)
		}
	}
}

// auditLines returns the audit log's lines about requests.
func (b *bench) auditLines() (entries []audit.Entry) {
	b.t.Helper()
	entries, _ = b.readAudit()
	return entries
}

// readAudit returns the audit log's lines about requests, and its events. An intended line has the status of a
// request that succeeded, unless another line says that its result was not released: only that line is returned.
func (b *bench) readAudit() (entries []audit.Entry, events []audit.Event) {
	b.t.Helper()
	content, err := os.ReadFile(filepath.Join(b.dir, "audit.log"))
	if err != nil {
		b.t.Fatal(err)
	}
	notReleased := make(map[uint64]bool)
	var lines []audit.Line
	for text := range bytes.Lines(content) {
		if !bytes.HasSuffix(text, []byte{'\n'}) {
			break // the gateway is still writing this line
		}
		var line audit.Line
		if err := json.Unmarshal(text, &line); err != nil {
			b.t.Fatalf("audit line %q: %v", text, err)
		}
		if line.Event != nil {
			events = append(events, *line.Event)
			continue
		}
		lines = append(lines, line)
		notReleased[line.Entry.NotReleased] = true
	}
	for _, line := range lines {
		if notReleased[line.Seq] {
			continue
		}
		if line.Entry.Intended {
			line.Entry.Status = 200
		}
		entries = append(entries, *line.Entry)
	}
	return entries, events
}

var digest = base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, hsm.DigestSize))

// signParams returns the parameters of AsymmetricSign with the bench's key, except for changes. A
// change to an empty value removes the parameter.
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
				t.Errorf("%s: got key %v, version %v in the answer, want %s, %s",
					alg, signed.Body["KeyId"], signed.Body["KeyVersionId"], keyId, version)
			}
			verify := func(digest, value string, want bool) {
				t.Helper()
				p := []string{"KeyId", keyId, "KeyVersionId", version, "Algorithm", string(alg), "Digest", digest, "Value", value}
				if a := b.want(b.do(b.root, "AsymmetricVerify", p...), 200, ""); a.Body["Value"] != want {
					t.Errorf("%s %s: got Value %v, want %v", spec, alg, a.Body["Value"], want)
				}
			}
			verify(digest, value, true)
			verify(base64.StdEncoding.EncodeToString(make([]byte, 32)), value, false)
			verify(digest, "AAAA", false) // a malformed signature is invalid, not an error
			e, _ := b.auditLine(signed.RequestId)
			if e.Principal != "root" || e.KeyId != keyId || e.KeyVersionId != version || e.Algorithm != string(alg) ||
				base64.StdEncoding.EncodeToString(e.Digest) != digest || e.Source != "127.0.0.1" || e.Action != "AsymmetricSign" || e.KeySpec != string(spec) {
				t.Errorf("%s %s: got audit line %+v, want the caller, the key and the digest", spec, alg, e)
			}
		}
	}
}

// TestWaysToSend sends the parameters of an operation by GET, and by POST in the query, in the
// form, and in both.
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

// TestKeyNames calls an operation with every name of a key, and with invalid names.
func TestKeyNames(t *testing.T) {
	b := newBench(t)
	const account = "acs:kms:cn-hangzhou:1000000000000001:"
	for _, name := range []string{b.key.KeyId, "alias/test", account + "key/" + b.key.KeyId, account + "alias/test"} {
		a := b.want(b.do(b.root, "AsymmetricSign", b.signParams("KeyId", name)...), 200, "")
		if a.Body["KeyId"] != b.key.KeyId {
			t.Errorf("%s: got key %v in the answer, want %s", name, a.Body["KeyId"], b.key.KeyId)
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

// scenario creates everything that an operation needs to succeed, and returns its parameters.
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

// TestEveryOperation walks the table of operations. Each operation must refuse unauthenticated
// callers and users without a policy for it, obey DryRun, have an audit line (which want checks),
// and succeed for a caller with permission.
func TestEveryOperation(t *testing.T) {
	b := newBench(t)
	nobody := b.newUser("nobody", `{"Version":"1","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}`)
	for _, action := range operationsOf(kms.RPC) {
		t.Run(action, func(t *testing.T) {
			p := b.scenario(action)
			if p == nil {
				t.Fatal("there is no scenario for this operation")
			}
			addDryRun := func(dryRun string) []string { return append(slices.Clone(p), "DryRun", dryRun) }
			before, pairs := b.records(), b.backend.Len()
			b.want(b.send("GET", "/?Action="+action+"&Version=2016-01-20", nil), 400, "IncompleteSignature")
			b.want(b.do(credential{b.root.AccessKeyId, "wrong"}, action, p...), 400, "SignatureDoesNotMatch")
			b.want(b.do(credential{b.root.AccessKeyId, "wrong"}, action, addDryRun("true")...), 400, "SignatureDoesNotMatch")
			if action != "DescribeRegions" { // it needs only authentication, as in KMS
				b.want(b.do(nobody, action, p...), 403, "Forbidden.NoPermission")
				b.want(b.do(nobody, action, addDryRun("true")...), 403, "AccessDeniedError")
			}
			b.want(b.do(b.root, action, addDryRun("true")...), 400, "DryRunOperationError")
			b.want(b.do(b.root, action, addDryRun("True")...), 400, "DryRunOperationError")
			b.want(b.do(b.root, action, addDryRun("yes")...), 400, "InvalidParameter")
			if got := b.records(); got != before || b.backend.Len() != pairs {
				t.Errorf("after refused calls and dry runs: got %d key pairs and %s, want %d and %s",
					b.backend.Len(), got, pairs, before)
			}
			b.want(b.do(b.root, action, p...), 200, "")
		})
	}
}

// records returns the keys, aliases, orphans and access points of the store as text.
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
			t.Errorf("%s is both an operation and in the list of unsupported ones", action)
		}
	}
	for _, action := range []string{"Sign", "asymmetricsign", "CreateUser", "CreateAccessKey", strings.Repeat("x", 10_000)} {
		b.want(b.do(b.root, action), 404, "InvalidApi.NotFound")
	}
	b.want(b.do(b.root, ""), 400, "MissingParameter")
	b.want(b.do(b.root, "ListKeys", "Version", "2099-01-01"), 404, "InvalidApi.NotFound")
}

// TestPlainHTTP checks that every request without TLS is refused.
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

// operationsOf returns the names of the operations whose most public door is door.
func operationsOf(door kms.Door) (names []string) {
	for _, o := range kms.Operations {
		if o.Door == door {
			names = append(names, o.Name)
		}
	}
	slices.Sort(names)
	return names
}

// TestImplemented checks that every described operation has a function, and that there are no
// others.
func TestImplemented(t *testing.T) {
	var described []string
	for _, o := range kms.Operations {
		described = append(described, o.Name)
	}
	slices.Sort(described)
	if diff := cmp.Diff(described, gateway.Implemented()); diff != "" {
		t.Errorf("operations with a function (- want, + got): %s", diff)
	}
}
