package gateway_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/adminclient"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/front"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// socketDir returns a new directory that admits only this user, as the admin socket needs it.
func socketDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "admin")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// admin opens the bench's admin door and returns a client.
func (b *bench) admin() *adminclient.Client {
	b.t.Helper()
	path := filepath.Join(socketDir(b.t.(*testing.T)), "admin.sock")
	b.openAdmin(path)
	c := adminclient.Dial(path)
	b.t.Cleanup(func() { c.Close() })
	return c
}

func (b *bench) openAdmin(path string) {
	b.t.Helper()
	l, err := front.ListenUnix(path)
	if err != nil {
		b.t.Fatal(err)
	}
	b.serveAdmin(l)
}

func (b *bench) serveAdmin(l net.Listener) {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.server.ServeAdmin(ctx, l) }()
	b.t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			b.t.Errorf("ServeAdmin: %v", err)
		}
	})
}

// signing returns a bench whose audit log signs with a key, and the public key.
func signing(t *testing.T, change ...func(*gateway.Config)) (*bench, *ecdsa.PublicKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return newBench(t, append(change, func(c *gateway.Config) {
		cfg := audit.Config{Path: c.Audit.Path(), Logger: quiet}
		if err := c.Audit.Close(); err != nil {
			t.Fatal(err)
		}
		cfg.Sign = func(_ context.Context, digest []byte) ([]byte, error) {
			return ecdsa.SignASN1(rand.Reader, key, digest)
		}
		if c.Audit, err = audit.Open(cfg); err != nil {
			t.Fatal(err)
		}
		log := c.Audit
		t.Cleanup(func() { log.Close() })
	})...), &key.PublicKey
}

// adminScenario creates everything that an administrative operation needs to succeed, and returns
// its parameters.
func (b *bench) adminScenario(action string) []string {
	b.t.Helper()
	c := b.newUser("u-"+action, document(allow("kms:ListKeys", "*")))
	b.local("CreateRamPolicy", nil, "PolicyName", "p-"+action, "PolicyDocument", document(allow("kms:*", "*")))
	user, policy := []string{"UserName", "u-" + action}, []string{"PolicyName", "p-" + action}
	doc := []string{"PolicyDocument", document(allow("kms:GetPublicKey", "*"))}
	return map[string][]string{
		"CreateUser":           {"UserName", "new", "Comments", "one more"},
		"ListUsers":            {},
		"DeleteUser":           {"UserName", "u-" + action, "Force", "true"},
		"ListQuotas":           {},
		"SetUserQuota":         append(user, "QuotaName", "asymmetric", "QueriesPerSecond", "7"),
		"CreateAccessKey":      user,
		"ListAccessKeys":       user,
		"UpdateAccessKey":      {"AccessKeyId", c.AccessKeyId, "Status", "Inactive"},
		"DeleteAccessKey":      {"AccessKeyId", c.AccessKeyId},
		"CreateRamPolicy":      append([]string{"PolicyName", "new"}, doc...),
		"GetRamPolicy":         policy,
		"ListRamPolicies":      {},
		"UpdateRamPolicy":      append(policy, doc...),
		"DeleteRamPolicy":      policy,
		"AttachPolicyToUser":   append(policy, user...),
		"DetachPolicyFromUser": {"UserName", "u-" + action, "PolicyName", "policy-of-u-" + action},
		"SimulatePolicy":       append(user, "ActionName", "kms:ListKeys"),
		"GetAuditHead":         {},
		"DescribeClock":        {},
		"ConfirmClock":         {},
		"CreateNamedKey":       {"AliasName", "alias/new", "KeySpec", "EC_P256", "Description", "new", "Tags", `[{"TagKey":"a","TagValue":"b"}]`},
		"CreateAttestation":    {"Kind", "ceremony", "Document", strings.Repeat("0a", 32), "KeyVersions.1.KeyId", b.key.KeyId, "KeyVersions.1.KeyVersionId", b.key.KeyVersionId},
		"CreateBackup":         {"Recipients.1", "age1test"},
		"DescribeToken":        {},
		"ListTokenObjects":     {},
		"ListKeyVersionUses":   {"KeyId", b.key.KeyId},
		"TestKeyVersion":       {"KeyId", b.key.KeyId, "KeyVersionId", b.key.KeyVersionId, "Count", "2"},
		"DestroyTokenObject":   b.stray(),
	}[action]
}

// everything returns all records as text, except for the outbox, whose record the next change
// removes.
func (b *bench) everything() string {
	s := b.records()
	records := b.db.Now()
	objects, _ := b.backend.Objects(b.t.Context()) // fails while the backend is down
	s += fmt.Sprint(len(objects), slices.Collect(records.Users().All()), slices.Collect(records.RamPolicies().All()), slices.Collect(records.AccessKeys().All()), slices.Collect(records.Nonces().All()), records.Instance(), records.AuditKey(), records.Clock(), b.backend.Len())
	return s
}

// TestAdminDoor calls every operation through the admin door: as a dry run, which must change
// nothing, and then once. Each call must have its audit line.
func TestAdminDoor(t *testing.T) {
	t.Parallel()
	b, key := signing(t)
	c := b.admin()
	me := fmt.Sprint(os.Getuid())
	changes := make(map[string]bool)
	for _, action := range slices.Concat(operationsOf(kms.Admin), operationsOf(kms.RPC)) {
		p := b.adminScenario(action)
		if p == nil {
			p = b.scenario(action)
		}
		if p == nil {
			t.Fatalf("%s: there is no scenario", action)
		}
		line := func(dryRun bool, status int, code string) {
			t.Helper()
			lines := b.auditLines()
			if e := lines[len(lines)-1]; e.Action != action || e.Principal != "local:"+me || e.Source != "uid:"+me || e.Door != "admin" ||
				e.Status != status || e.Code != code || e.DryRun != dryRun || e.RequestId == "" || e.Quota != "" {
				t.Errorf("%s: got last audit line %+v, want its own with %d %s", action, e, status, code)
			}
		}
		before := b.everything()
		dry := params(p...)
		dry["DryRun"] = "True"
		var api *kms.Error
		if err := c.Do(t.Context(), kms.AdminRequest{Action: action, Parameters: dry, AsAdministrator: true}, nil); !errors.As(err, &api) || api.Status != 400 || api.Code != "DryRunOperationError" {
			t.Errorf("%s as a dry run: got error %v, want DryRunOperationError", action, err)
		}
		line(true, 400, "DryRunOperationError")
		if after := b.everything(); after != before {
			t.Errorf("%s as a dry run changed records: got\n%s\nwant\n%s", action, after, before)
		}
		var resp map[string]any
		if action == "CreateBackup" {
			var octets bytes.Buffer
			if err := c.Stream(t.Context(), action, params(p...), &octets); err != nil || !strings.Contains(octets.String(), "age1test") {
				t.Errorf("%s: got %d octets, %v, want an archive for age1test", action, octets.Len(), err)
			}
		} else if err := c.Do(t.Context(), kms.AdminRequest{Action: action, Parameters: params(p...), AsAdministrator: true}, &resp); err != nil || resp["RequestId"] == "" {
			t.Errorf("%s: got %v, %v, want a RequestId", action, resp, err)
		}
		line(false, 200, "")
		changes[action] = b.everything() != before
		if action == "GetAuditHead" {
			head, err := audit.ParseCheckpoint(resp["Head"].(string))
			if err != nil || !head.Check(key) || head.Seq == 0 {
				t.Errorf("GetAuditHead: got %v (%+v), %v, want a head with a valid signature", resp["Head"], head, err)
			}
		}
	}
	// The comparison must see real changes, or it would prove nothing.
	for action, changed := range changes {
		reads := slices.ContainsFunc(
			[]string{"List", "Get", "Simulate", "Describe", "Test", "CreateAttestation", "CreateBackup"},
			func(prefix string) bool { return strings.HasPrefix(action, prefix) })
		if slices.Contains(operationsOf(kms.Admin), action) && changed == reads {
			t.Errorf("%s changed records: got %v, want %v", action, changed, !reads)
		}
	}
}

// TestAdminErrors triggers every error of the administrative operations, through the socket.
func TestAdminErrors(t *testing.T) {
	b := newBench(t)
	c := b.admin()
	b.newUser("dev", document(allow("kms:*", "*")))
	b.local("CreateAlias", nil, "AliasName", "alias/taken", "KeyId", b.key.KeyId)
	doc := document(allow("kms:*", "*"))
	statuses := make(map[string]int)
	for _, e := range kms.AdminErrors() {
		statuses[e.Code] = e.Status
	}
	for _, tc := range []struct {
		code, action string
		p            []string
	}{
		{"EntityNotExist.User", "DeleteUser", []string{"UserName", "none"}},
		{"EntityNotExist.User", "CreateAccessKey", []string{"UserName", "none"}},
		{"EntityNotExist.User", "ListAccessKeys", []string{"UserName", "none"}},
		{"EntityNotExist.User", "AttachPolicyToUser", []string{"UserName", "none", "PolicyName", "AliyunKMSFullAccess"}},
		{"EntityNotExist.User", "SetUserQuota", []string{"UserName", "none", "QuotaName", "asymmetric"}},
		{"EntityAlreadyExists.User", "CreateUser", []string{"UserName", "dev"}},
		{"EntityNotExist.User.AccessKey", "DeleteAccessKey", []string{"AccessKeyId", "none"}},
		{"EntityNotExist.User.AccessKey", "UpdateAccessKey", []string{"AccessKeyId", "none", "Status", "Active"}},
		{"EntityNotExist.Policy", "GetRamPolicy", []string{"PolicyName", "none"}},
		{"EntityNotExist.Policy", "DeleteRamPolicy", []string{"PolicyName", "none"}},
		{"EntityNotExist.Policy", "UpdateRamPolicy", []string{"PolicyName", "none", "PolicyDocument", doc}},
		{"EntityNotExist.Policy", "AttachPolicyToUser", []string{"UserName", "dev", "PolicyName", "none"}},
		{"EntityAlreadyExists.Policy", "CreateRamPolicy", []string{"PolicyName", "policy-of-dev", "PolicyDocument", doc}},
		{"EntityAlreadyExists.User.Policy", "AttachPolicyToUser", []string{"UserName", "dev", "PolicyName", "policy-of-dev"}},
		{"EntityNotExist.User.Policy", "DetachPolicyFromUser", []string{"UserName", "dev", "PolicyName", "AliyunKMSFullAccess"}},
		{"DeleteConflict.User", "DeleteUser", []string{"UserName", "dev"}},
		{"DeleteConflict.Policy.User", "DeleteRamPolicy", []string{"PolicyName", "policy-of-dev"}},
		{"EntityNotExist.TokenObject", "DestroyTokenObject", []string{"Handle", "77"}},
		{"DeleteConflict.TokenObject", "DestroyTokenObject", b.objectOf(b.key.KeyVersionId)},
		{"InvalidParameter", "TestKeyVersion", []string{"KeyId", b.key.KeyId, "KeyVersionId", b.key.KeyVersionId, "Count", "101"}},
		{"Forbidden.KeyVersionNotFound", "TestKeyVersion", []string{"KeyId", b.key.KeyId, "KeyVersionId", "none"}},
		{"InvalidParameter", "SetUserQuota", []string{"UserName", "dev", "QuotaName", "dedicated_instance", "QueriesPerSecond", "1"}},
		{"InvalidParameter", "SetUserQuota", []string{"UserName", "dev", "QuotaName", "asymmetric", "QueriesPerSecond", "0"}},
		{"InvalidParameter", "SetUserQuota", []string{"UserName", "dev", "QuotaName", "asymmetric", "QueriesPerSecond", "1000001"}},
		{"InvalidParameter", "UpdateAccessKey", []string{"AccessKeyId", "none", "Status", "active"}},
		{"InvalidParameter", "DeleteUser", []string{"UserName", "dev", "Force", "yes"}},
		{"AliasAlreadyExists", "CreateNamedKey", []string{"AliasName", "alias/taken", "KeySpec", "EC_P256"}},
		{"InvalidParameter", "CreateNamedKey", []string{"AliasName", "x", "KeySpec", "EC_P256"}},
		{"InvalidParameter", "CreateNamedKey", []string{"AliasName", "alias/x", "KeySpec", "EC_P256", "Policy", "x"}},
		{"UnsupportedOperation", "CreateNamedKey", []string{"AliasName", "alias/x", "KeySpec", "Aliyun_AES_256"}},
		{"InvalidParameter", "CreateBackup", []string{"Recipients", `["none"]`}},
		{"MissingParameter", "CreateBackup", nil},
		{"MissingParameter", "DeleteUser", nil},
		{"MissingParameter", "", nil},
		{"InvalidApi.NotFound", "Nonsense", nil},
		{"UnsupportedOperation", "Encrypt", nil},
	} {
		before := b.everything()
		var api *kms.Error
		err := c.Call(t.Context(), tc.action, params(tc.p...), nil)
		if !errors.As(err, &api) || api.Code != tc.code || statuses[tc.code] != 0 && api.Status != statuses[tc.code] {
			t.Errorf("%s %q: got error %v, want %s", tc.action, tc.p, err, tc.code)
		}
		if lines := b.auditLines(); api != nil && lines[len(lines)-1].Code != api.Code {
			t.Errorf("%s %q: got last audit line %+v, want code %s", tc.action, tc.p, lines[len(lines)-1], api.Code)
		}
		if after := b.everything(); after != before {
			t.Errorf("%s %q: the refused request changed records", tc.action, tc.p)
		}
	}
	for _, e := range kms.AdminErrors() {
		if !b.audited(e.Code) {
			t.Errorf("%s was not triggered", e.Code)
		}
	}
}

func (b *bench) audited(code string) bool {
	return slices.ContainsFunc(b.auditLines(), func(e audit.Entry) bool { return e.Code == code })
}

// TestNoAdministrationFromTheWorld checks that no permission allows an administrative operation
// over the network.
func TestNoAdministrationFromTheWorld(t *testing.T) {
	b := newBench(t)
	full := b.newUser("full", document(allow("*", "*")))
	for _, action := range operationsOf(kms.Admin) {
		p := params(b.adminScenario(action)...)
		delete(p, "AccessKeyId") // in an RPC request, it identifies the caller
		before := b.everything()
		ask := func(dryRun string) answer {
			p["DryRun"] = dryRun
			return b.send("GET", "/?"+b.sign(full, "GET", action, p).Encode(), nil)
		}
		b.want(ask("false"), 404, "InvalidApi.NotFound")
		b.want(ask("true"), 400, "ValidationError")
		if b.everything() != before {
			t.Errorf("%s: the refused request changed records", action)
		}
	}
}

// TestAdminRequests sends invalid admin requests. Each must get an error of the API, have an audit
// line, and change nothing.
func TestAdminRequests(t *testing.T) {
	t.Parallel() // net/http waits before it closes a connection whose body is too large
	b := newBench(t)
	path := filepath.Join(socketDir(t), "admin.sock")
	b.openAdmin(path)
	http := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	defer http.CloseIdleConnections()
	before := b.everything()
	for _, tc := range []struct {
		method, path, body string
		status             int
		code               string
	}{
		{"POST", "/", `{"Action":"ListUsers"}`, 200, ""},
		{"POST", "/", ``, 400, "ParseRequestParameterException"},
		{"POST", "/", `{`, 400, "ParseRequestParameterException"},
		{"POST", "/", `Action=ListUsers`, 400, "ParseRequestParameterException"},
		{"POST", "/", `[]`, 400, "ParseRequestParameterException"},
		{"POST", "/", `{"Action":1}`, 400, "ParseRequestParameterException"},
		{"POST", "/", `{"Action":"CreateUser","Parameters":{"UserName":["x"]}}`, 400, "ParseRequestParameterException"},
		{"POST", "/", `{"Action":"CreateUser","Parameters":{"UserName":"x"},"Principal":"local:0"}`, 400, "ParseRequestParameterException"},
		{"POST", "/", `{"Action":"CreateUser","Parameters":{"UserName":"x","Comments":"` + strings.Repeat("c", 2<<20) + `"}}`, 400, "ParseRequestParameterException"},
		{"POST", "/", `{"Parameters":{}}`, 400, "MissingParameter"},
		{"POST", "/", `{"Action":"CreateUser","Parameters":{"UserName":"x","DryRun":"perhaps"}}`, 400, "InvalidParameter"},
		{"POST", "/other", `{"Action":"CreateUser","Parameters":{"UserName":"x"}}`, 404, "InvalidApi.NotFound"},
		{"PUT", "/", `{"Action":"CreateUser","Parameters":{"UserName":"x"}}`, 403, "UnsupportedHTTPMethod"},
	} {
		r, err := newRequest(t, tc.method, "http://kmsgate"+tc.path, tc.body)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.Do(r)
		if err != nil {
			t.Errorf("%s %s %.60s: %v", tc.method, tc.path, tc.body, err)
			continue
		}
		var got struct{ RequestId, Code, Message string }
		err = json.NewDecoder(resp.Body).Decode(&got)
		resp.Body.Close()
		if err != nil || resp.StatusCode != tc.status || got.Code != tc.code || got.RequestId == "" || len(got.Message) > 1000 {
			t.Errorf("%s %s %.60s: got %d %+v, %v, want %d %s",
				tc.method, tc.path, tc.body, resp.StatusCode, got, err, tc.status, tc.code)
		}
		if e, _ := b.auditLine(got.RequestId); e.Status != tc.status || e.Code != tc.code || e.Door != "admin" {
			t.Errorf("%s %s %.60s: got audit line %+v, want %d %s", tc.method, tc.path, tc.body, e, tc.status, tc.code)
		}
	}
	if b.everything() != before {
		t.Error("a refused request changed records")
	}
	resp, err := http.Get("http://kmsgate/ready")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 || string(text) != "ok\n" {
		t.Errorf("/ready: got %d %q, want 200 ok", resp.StatusCode, text)
	}
}

func newRequest(t *testing.T, method, url, body string) (*http.Request, error) {
	return http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
}

// otherUserSocket is the environment variable that makes a child of the test's binary call the
// admin socket at this path.
const otherUserSocket = "KMSGATE_TEST_OTHER_USER_SOCKET"

// TestAdminPeer checks that neither another user of the machine nor a caller without a known uid
// can administer or observe the gateway, even if they can open the socket.
func TestAdminPeer(t *testing.T) {
	if path := os.Getenv(otherUserSocket); path != "" {
		fmt.Println("answer:", adminclient.Dial(path).Call(t.Context(), "CreateUser", params("UserName", "intruder"), nil))
		fmt.Println("answer:", adminclient.Dial(path).Call(t.Context(), "ListUsers", nil, nil))
		return
	}
	t.Parallel()
	b := newBench(t)
	before := b.everything()

	// The uid of a caller over TCP is unknown.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.serveAdmin(l)
	for _, tc := range []struct{ method, path string }{{"POST", "/"}, {"GET", "/metrics"}, {"GET", "/ready"}, {"GET", "/live"}, {"GET", "/"}} {
		r, err := newRequest(t, tc.method, "http://"+l.Addr().String()+tc.path, `{"Action":"CreateUser","Parameters":{"UserName":"intruder"}}`)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		var got struct{ RequestId, Code string }
		if err := json.NewDecoder(resp.Body).Decode(&got); err != nil || resp.StatusCode != 403 || got.Code != "Forbidden.NoPermission" {
			t.Errorf("%s %s over TCP: got %d %+v, %v, want 403 Forbidden.NoPermission",
				tc.method, tc.path, resp.StatusCode, got, err)
		}
		resp.Body.Close()
		if e, _ := b.auditLine(got.RequestId); e.Principal != "" || !strings.Contains(e.Reason, "cannot identify the peer") {
			t.Errorf("%s %s over TCP: got audit line %+v, want one without a principal", tc.method, tc.path, e)
		}
	}

	// Only root can start a process of another user.
	if os.Getuid() == 0 {
		b.callAsUser(65534)
	}
	if b.everything() != before {
		t.Error("a refused request changed records")
	}
}

// TestInstanceHeader tests that every answer of the admin door says which instance it is from, and
// that a client that expects another instance has nothing carried out.
func TestInstanceHeader(t *testing.T) {
	b := newBench(t)
	path := filepath.Join(socketDir(t), "admin.sock")
	b.openAdmin(path)
	raw := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	defer raw.CloseIdleConnections()
	for _, tc := range []struct {
		method, path, body string
		status             int
	}{
		{"HEAD", "/", "", 200}, {"GET", "/live", "", 200}, {"GET", "/nothing", "", 404},
		{"POST", "/", "nonsense", 400}, {"POST", "/", `{"Action":"ListUsers"}`, 200},
	} {
		r, err := newRequest(t, tc.method, "http://kmsgate"+tc.path, tc.body)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := raw.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get(kms.InstanceHeader); got != instance.InstanceId || resp.StatusCode != tc.status {
			t.Errorf("%s %s: got status %d and instance %q, want %d and %q", tc.method, tc.path, resp.StatusCode, got, tc.status, instance.InstanceId)
		}
	}
	before, lines := b.everything(), len(b.auditLines())
	for expected, want := range map[string]error{instance.InstanceId: nil, "kst-other": adminclient.ErrUntrusted} {
		c := adminclient.New(adminclient.Gateway{Socket: path, Instance: expected})
		if want != nil {
			if err := c.Call(t.Context(), "CreateUser", params("UserName", "intruder"), nil); !errors.Is(err, want) {
				t.Errorf("a client that expects %q: got %v, want %v", expected, err, want)
			}
		} else if err := c.Call(t.Context(), "ListUsers", nil, nil); err != nil {
			t.Errorf("a client that expects %q: %v", expected, err)
		}
		c.Close()
	}
	if got := len(b.auditLines()); got != lines+1 || b.everything() != before {
		t.Errorf("got %d new audit lines, want only that of ListUsers, and no changed record", got-lines)
	}
}

// callAsUser has a child with another uid call a socket that the child can open. The socket is
// outside of t.TempDir, which other users cannot enter.
func (b *bench) callAsUser(uid uint32) {
	b.t.Helper()
	dir, err := os.MkdirTemp("", "kmsgate-other-user")
	if err != nil {
		b.t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "admin.sock")
	b.openAdmin(path)
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(path, 0o666)); err != nil {
		b.t.Fatal(err)
	}
	// The child can reach the binary through /proc only.
	child := exec.CommandContext(b.t.Context(), "/proc/self/exe", "-test.run=^TestAdminPeer$", "-test.v")
	child.Env = append(os.Environ(), otherUserSocket+"="+path, "GORACE=atexit_sleep_ms=0")
	child.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	output, err := child.CombinedOutput()
	if err != nil || strings.Count(string(output), "answer: 403 Forbidden.NoPermission") != 2 {
		b.t.Errorf("uid %d: got %v, %s, want 403 Forbidden.NoPermission twice", uid, err, output)
	}
	b.eventually("the audit lines of the refusals", func() bool {
		n := 0
		for _, e := range b.auditLines() {
			if e.Source == fmt.Sprintf("uid:%d", uid) && e.Principal == "" && e.Code == "Forbidden.NoPermission" && e.Door == "admin" {
				n++
			}
		}
		return n == 2
	})
}
