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

// socketDir makes a directory as the admin door wants it.
func socketDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "admin")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// admin opens the bench's admin door.
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

// signing gives a bench whose audit log has a key.
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

// adminScenario makes what an operation of administration needs to succeed.
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
		"CreateBackup":         {"Recipients.1", "age1test"},
		"DescribeToken":        {},
		"ListTokenObjects":     {},
		"TestKeyVersion":       {"KeyId", b.key.KeyId, "KeyVersionId", b.key.KeyVersionId, "Count", "2"},
		"DestroyTokenObject":   b.stray(),
	}[action]
}

// everything writes down all records but for the outbox, whose record goes with
// the next change.
func (b *bench) everything() string {
	s := b.records()
	records := b.db.Now()
	objects, _ := b.backend.Objects(b.t.Context()) // what there is when the backend is down, is not asked here
	s += fmt.Sprint(len(objects), slices.Collect(records.Users().All()), slices.Collect(records.RamPolicies().All()), slices.Collect(records.AccessKeys().All()), slices.Collect(records.Nonces().All()), records.Instance(), records.AuditKey(), b.backend.Len())
	return s
}

// TestAdminDoor has every operation through the admin door: as a dry run, which
// changes nothing, and then once, each with its line.
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
			t.Fatalf("the test does not know parameters for %s", action)
		}
		line := func(dryRun bool, status int, code string) {
			t.Helper()
			lines := b.auditLines()
			if e := lines[len(lines)-1]; e.Action != action || e.Principal != "local:"+me || e.Source != "uid:"+me || e.Door != "admin" ||
				e.Status != status || e.Code != code || e.DryRun != dryRun || e.RequestId == "" || e.Quota != "" {
				t.Errorf("%s: the last audit line is %+v", action, e)
			}
		}
		before := b.everything()
		dry := params(p...)
		dry["DryRun"] = "True"
		var api *kms.Error
		if err := c.Call(t.Context(), action, dry, nil); !errors.As(err, &api) || api.Status != 400 || api.Code != "DryRunOperationError" {
			t.Errorf("%s as a dry run: %v", action, err)
		}
		line(true, 400, "DryRunOperationError")
		if after := b.everything(); after != before {
			t.Errorf("%s as a dry run changed records:\n%s\nbefore:\n%s", action, after, before)
		}
		var resp map[string]any
		if action == "CreateBackup" {
			var octets bytes.Buffer
			if err := c.Stream(t.Context(), action, params(p...), &octets); err != nil || !strings.Contains(octets.String(), "age1test") {
				t.Errorf("%s: %d octets, %v", action, octets.Len(), err)
			}
		} else if err := c.Call(t.Context(), action, params(p...), &resp); err != nil || resp["RequestId"] == "" {
			t.Errorf("%s: %v, %v", action, resp, err)
		}
		line(false, 200, "")
		changes[action] = b.everything() != before
		if action == "GetAuditHead" {
			head, err := audit.ParseCheckpoint(resp["Head"].(string))
			if err != nil || !head.Check(key) || head.Seq == 0 {
				t.Errorf("the head %v: %+v, %v", resp["Head"], head, err)
			}
		}
	}
	// The comparison sees what is changed: it would not pass for want of looking.
	for action, changed := range changes {
		if slices.Contains(operationsOf(kms.Admin), action) && changed == slices.ContainsFunc([]string{"List", "Get", "Simulate", "Describe", "Test", "CreateBackup"}, func(reads string) bool { return strings.HasPrefix(action, reads) }) {
			t.Errorf("%s changed records: %v", action, changed)
		}
	}
}

// TestAdminErrors provokes every error of administration, through the socket.
func TestAdminErrors(t *testing.T) {
	b := newBench(t)
	c := b.admin()
	b.newUser("dev", document(allow("kms:*", "*")))
	doc := document(allow("kms:*", "*"))
	left := make(map[string]int)
	for _, e := range kms.AdminErrors() {
		left[e.Code] = e.Status
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
		if !errors.As(err, &api) || api.Code != tc.code || left[tc.code] != 0 && api.Status != left[tc.code] {
			t.Errorf("%s %q: %v, want %s", tc.action, tc.p, err, tc.code)
		}
		if lines := b.auditLines(); api != nil && lines[len(lines)-1].Code != api.Code {
			t.Errorf("%s %q: the last audit line is %+v", tc.action, tc.p, lines[len(lines)-1])
		}
		if after := b.everything(); after != before {
			t.Errorf("%s %q: refused, it changed records", tc.action, tc.p)
		}
	}
	for _, e := range kms.AdminErrors() {
		if !b.audited(e.Code) {
			t.Errorf("%s was not provoked", e.Code)
		}
	}
}

func (b *bench) audited(code string) bool {
	return slices.ContainsFunc(b.auditLines(), func(e audit.Entry) bool { return e.Code == code })
}

// TestNoAdministrationFromTheWorld: no right makes an operation of
// administration one that the network can ask for, on any kind of listener.
func TestNoAdministrationFromTheWorld(t *testing.T) {
	b := newBench(t)
	full := b.newUser("full", document(allow("*", "*")))
	for _, action := range operationsOf(kms.Admin) {
		p := params(b.adminScenario(action)...)
		delete(p, "AccessKeyId") // here it says who signs
		before := b.everything()
		ask := func(dryRun string) answer {
			p["DryRun"] = dryRun
			return b.send("GET", "/?"+b.sign(full, "GET", action, p).Encode(), nil)
		}
		b.want(ask("false"), 404, "InvalidApi.NotFound")
		b.want(ask("true"), 400, "ValidationError")
		if b.everything() != before {
			t.Errorf("%s: refused, it changed records", action)
		}
	}
}

// TestListenAdmin: where the socket is made, and who may open it.
func TestListenAdmin(t *testing.T) {
	dir := socketDir(t)
	path := filepath.Join(dir, "admin.sock")
	mode := func() os.FileMode {
		t.Helper()
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode()
	}
	first, err := front.ListenUnix(path)
	if err != nil || mode() != os.ModeSocket|0o600 {
		t.Fatalf("mode %v, %v", mode(), err)
	}
	// A process that is gone leaves its socket behind.
	first.(*net.UnixListener).SetUnlinkOnClose(false)
	first.Close()
	second, err := front.ListenUnix(path)
	if err != nil || mode() != os.ModeSocket|0o600 {
		t.Fatalf("in the place of a stale socket: mode %v, %v", mode(), err)
	}
	b := newBench(t)
	b.serveAdmin(second)
	if err := adminclient.Dial(path).Call(t.Context(), "ListUsers", nil, nil); err != nil {
		t.Error(err)
	}
	for _, open := range []os.FileMode{0o755, 0o701, 0o710, 0o770, 0o704} {
		if err := os.Chmod(dir, open); err != nil {
			t.Fatal(err)
		}
		if _, err := front.ListenUnix(filepath.Join(dir, "other.sock")); err == nil || !strings.Contains(err.Error(), "chmod 700") {
			t.Errorf("in a directory of mode %o: %v", open, err)
		}
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	// What is no socket is nobody's leftover.
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := front.ListenUnix(file); err == nil {
		t.Error("a file was replaced by the socket")
	}
	if content, err := os.ReadFile(file); err != nil || string(content) != "mine" {
		t.Errorf("the file: %q, %v", content, err)
	}
}

// TestAdminRequests sends what is no admin request: each gets an error of the
// API, has a line, and does nothing.
func TestAdminRequests(t *testing.T) {
	t.Parallel() // net/http waits before it closes on a body that is too large
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
			t.Errorf("%s %s %.60s: %d %+v, %v, want %d %s", tc.method, tc.path, tc.body, resp.StatusCode, got, err, tc.status, tc.code)
		}
		if e, _ := b.auditLine(got.RequestId); e.Status != tc.status || e.Code != tc.code || e.Door != "admin" {
			t.Errorf("%s %s %.60s: audit line %+v", tc.method, tc.path, tc.body, e)
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
		t.Errorf("health: %d %q", resp.StatusCode, text)
	}
}

func newRequest(t *testing.T, method, url, body string) (*http.Request, error) {
	return http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
}

// strangerSocket tells a child of this test's own binary that it is one, and
// what to ask.
const strangerSocket = "KMSGATE_TEST_STRANGER_SOCKET"

// TestAdminPeer: neither another user of this machine nor who is not known at
// all may administer or observe, even if the socket can be opened.
func TestAdminPeer(t *testing.T) {
	if path := os.Getenv(strangerSocket); path != "" {
		fmt.Println("asked:", adminclient.Dial(path).Call(t.Context(), "CreateUser", params("UserName", "intruder"), nil))
		fmt.Println("asked:", adminclient.Dial(path).Call(t.Context(), "ListUsers", nil, nil))
		return
	}
	t.Parallel()
	b := newBench(t)
	before := b.everything()

	// Over TCP nobody is known.
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
			t.Errorf("%s %s over TCP: %d %+v, %v", tc.method, tc.path, resp.StatusCode, got, err)
		}
		resp.Body.Close()
		if e, _ := b.auditLine(got.RequestId); e.Principal != "" || !strings.Contains(e.Reason, "cannot identify the peer") {
			t.Errorf("audit line %+v", e)
		}
	}

	// Only root can be somebody else; as anybody else this part has no subject.
	if os.Getuid() == 0 {
		b.askAsStranger(65534)
	}
	if b.everything() != before {
		t.Error("a refused request changed records")
	}
}

// askAsStranger has a child with another uid ask at a socket that it can open,
// which takes a directory outside of t.TempDir: that is closed to others.
func (b *bench) askAsStranger(uid uint32) {
	b.t.Helper()
	dir, err := os.MkdirTemp("", "kmsgate-stranger")
	if err != nil {
		b.t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "admin.sock")
	b.openAdmin(path)
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(path, 0o666)); err != nil {
		b.t.Fatal(err)
	}
	// By way of /proc: the way to the binary is closed to the child.
	child := exec.CommandContext(b.t.Context(), "/proc/self/exe", "-test.run=^TestAdminPeer$", "-test.v")
	child.Env = append(os.Environ(), strangerSocket+"="+path, "GORACE=atexit_sleep_ms=0")
	child.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	said, err := child.CombinedOutput()
	if err != nil || strings.Count(string(said), "asked: 403 Forbidden.NoPermission") != 2 {
		b.t.Errorf("uid %d: %v, %s", uid, err, said)
	}
	b.eventually("the refusals' lines", func() bool {
		n := 0
		for _, e := range b.auditLines() {
			if e.Source == fmt.Sprintf("uid:%d", uid) && e.Principal == "" && e.Code == "Forbidden.NoPermission" && e.Door == "admin" {
				n++
			}
		}
		return n == 2
	})
}
