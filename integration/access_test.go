package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	kms "github.com/alibabacloud-go/kms-20160120/v3/client"
	"github.com/alibabacloud-go/tea/tea"
	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/integration/devgateway"
)

// kmsgate runs a command and returns its standard output. The error contains its standard error.
func kmsgate(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Env = devgateway.Environment()
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	return string(out), err
}

// administer runs a command through a gateway's admin socket and returns its standard output. The
// command must succeed.
func administer(t *testing.T, env map[string]string, args ...string) string {
	t.Helper()
	out, err := kmsgate(t, append(args, "--socket", env["KMSGATE_ADMIN_SOCKET"])...)
	if err != nil {
		t.Fatalf("kmsgate %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// newUser creates a user with a policy and an access key. It returns env with that access key.
func newUser(t *testing.T, env map[string]string, name, policyName string) map[string]string {
	t.Helper()
	administer(t, env, "user", "create", name)
	administer(t, env, "policy", "attach", policyName, "--user", name)
	var created struct{ AccessKeyId, AccessKeySecret string }
	if err := json.Unmarshal([]byte(administer(t, env, "accesskey", "create", "--user", name)), &created); err != nil {
		t.Fatal(err)
	}
	userEnv := maps.Clone(env)
	userEnv["KMSGATE_ACCESS_KEY_ID"] = created.AccessKeyId
	userEnv["KMSGATE_ACCESS_KEY_SECRET"] = created.AccessKeySecret
	return userEnv
}

func newPolicy(t *testing.T, env map[string]string, name, document string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(document), 0o600); err != nil {
		t.Fatal(err)
	}
	administer(t, env, "policy", "create", name, "--file", file)
}

// TestOneProgramOneKey shows the purpose of a signing appliance: a program may sign with one key
// and do nothing else, the audit log shows every use, and an auditor can prove that no line was
// removed.
func TestOneProgramOneKey(t *testing.T) {
	dir := t.TempDir() + "/gateway"
	g := start(t, dir)
	key, version := g.Env["KMSGATE_KEY_EC_P256"], g.Env["KMSGATE_KEYVERSION_EC_P256"]
	newPolicy(t, g.Env, "one-key", `{"Version":"1","Statement":[{"Effect":"Allow",
		"Action":["kms:AsymmetricSign","kms:GetPublicKey"],"Resource":"acs:kms:*:*:key/`+key+`"}]}`)
	app, err := devgateway.SDK(newUser(t, g.Env, "app", "one-key"))
	if err != nil {
		t.Fatal(err)
	}
	c := newSDK{app}
	digest := make([]byte, 32)
	for _, name := range []string{key, "alias/dev-ec-p256"} {
		if _, _, _, err := c.sign(name, version, hsm.ECDSA_SHA_256, digest); err != nil {
			t.Errorf("signing with key %q: %v", name, err)
		}
	}
	denied := func(request string, err error) {
		t.Helper()
		if got, _ := errorCode(t, err); got != "403 Forbidden.NoPermission" {
			t.Errorf("%s: got %q, want 403 Forbidden.NoPermission", request, got)
		}
	}
	_, _, _, err = c.sign("alias/dev-ec-p256k", g.Env["KMSGATE_KEYVERSION_EC_P256K"], hsm.ECDSA_SHA_256, digest)
	denied("another key", err)
	_, _, _, err = c.sign("none", version, hsm.ECDSA_SHA_256, digest)
	denied("a key that does not exist", err)
	_, err = c.verify(key, version, hsm.ECDSA_SHA_256, digest, digest)
	denied("AsymmetricVerify", err)
	_, err = app.DisableKey(&kms.DisableKeyRequest{KeyId: &key})
	denied("DisableKey", err)
	_, err = app.CreateKey(&kms.CreateKeyRequest{KeySpec: tea.String("EC_P256")})
	denied("CreateKey", err)

	// A Deny in the key policy overrides the Allow of the user's policy, immediately.
	deny := fmt.Sprintf(`{"Version":"1","Statement":[{"Effect":"Deny","Principal":{"RAM":["acs:ram::%s:user/app"]},
		"Action":["kms:AsymmetricSign"],"Resource":["*"]}]}`, g.Env["KMSGATE_ACCOUNT_ID"])
	file := filepath.Join(t.TempDir(), "deny.json")
	if err := os.WriteFile(file, []byte(deny), 0o600); err != nil {
		t.Fatal(err)
	}
	administer(t, g.Env, "key", "policy", "update", key, "--file", file, "--yes")
	_, _, _, err = c.sign(key, version, hsm.ECDSA_SHA_256, digest)
	denied("a key whose policy denies the user", err)

	uses, err := kmsgate(t, "audit", "search", g.Env["KMSGATE_AUDIT_FILE"],
		"--user", "app", "--action", "AsymmetricSign", "-o", "json")
	if err != nil || strings.Count(uses, "\n") != 5 || strings.Count(uses, `"Code":"Forbidden.NoPermission"`) != 3 {
		t.Errorf("audit search: %v, want 5 lines, 3 of them denied, got:\n%s", err, uses)
	}
	head := strings.TrimSpace(administer(t, g.Env, "audit", "head"))
	if err := g.Stop(); err != nil {
		t.Fatal(err)
	}
	verify := []string{"audit", "verify", g.Env["KMSGATE_AUDIT_FILE"],
		"--audit-public-key", g.Env["KMSGATE_AUDIT_PUBLIC_KEY"], "--expect", head}
	if out, err := kmsgate(t, verify...); err != nil || !strings.HasPrefix(out, "proven: lines 1 to ") {
		t.Errorf("audit verify: %v\n%s", err, out)
	}
	content, err := os.ReadFile(g.Env["KMSGATE_AUDIT_FILE"])
	if err != nil {
		t.Fatal(err)
	}
	hidden := regexp.MustCompile(`(?m)^.*"Action":"AsymmetricSign".*\n`).ReplaceAll(content, nil)
	if err := os.WriteFile(g.Env["KMSGATE_AUDIT_FILE"], hidden, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := kmsgate(t, verify...); err == nil {
		t.Errorf("audit verify accepts a log from which lines were removed:\n%s", out)
	}
}

// A load is a number of callers that sign without pause.
type load struct {
	stop    atomic.Bool
	callers sync.WaitGroup
	mu      sync.Mutex
	signed  []string         // RequestIds of signatures; guarded by mu
	refused map[string]int   // number of error responses by status and code; guarded by mu
	other   map[string]error // errors without a response of the API, by message; guarded by mu
}

// startLoad starts callers that sign until end is called, or the test ends.
func startLoad(t *testing.T, env map[string]string, callers int) *load {
	t.Helper()
	l := &load{refused: make(map[string]int), other: make(map[string]error)}
	for range callers {
		client, err := devgateway.SDK(env)
		if err != nil {
			t.Fatal(err)
		}
		l.callers.Go(func() {
			for !l.stop.Load() {
				l.sign(t, client, env)
			}
		})
	}
	t.Cleanup(func() { l.end() })
	return l
}

// sign signs once and records the outcome.
func (l *load) sign(t *testing.T, client *kms.Client, env map[string]string) {
	resp, err := client.AsymmetricSign(&kms.AsymmetricSignRequest{
		KeyId: tea.String(env["KMSGATE_KEY_EC_P256"]), KeyVersionId: tea.String(env["KMSGATE_KEYVERSION_EC_P256"]),
		Algorithm: tea.String("ECDSA_SHA_256"), Digest: b64(make([]byte, 32)),
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.signed = append(l.signed, tea.StringValue(resp.Body.RequestId))
	} else if sdk := (*tea.SDKError)(nil); errors.As(err, &sdk) && tea.IntValue(sdk.StatusCode) > 0 {
		code, _ := errorCode(t, err)
		l.refused[code]++
	} else {
		l.other[err.Error()] = err // the gateway was killed
	}
}

// count returns the number of signatures so far.
func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.signed)
}

// refusals returns the number of responses with a status and code, such as "503 X".
func (l *load) refusals(code string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refused[code]
}

// end stops the callers and waits for them.
func (l *load) end() {
	l.stop.Store(true)
	l.callers.Wait()
}

// checkLogged checks that an audit log has a line for each signature.
func (l *load) checkLogged(t *testing.T, file string) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range l.signed {
		if !bytes.Contains(content, []byte(`"RequestId":"`+id+`"`)) {
			t.Errorf("the audit log has no line for request %s, which was answered", id)
		}
	}
}

// TestAnsweredMeansLogged kills a gateway while it signs. The audit log must have a line for every
// request that was answered, and its chain must be complete.
func TestAnsweredMeansLogged(t *testing.T) {
	dir := t.TempDir() + "/gateway"
	for range 3 {
		g := start(t, dir)
		l := startLoad(t, g.Env, 16)
		waitFor(t, "signatures", func() bool { return l.count() > 200 })
		if err := g.Kill(); err != nil {
			t.Fatal(err)
		}
		l.end()
		l.checkLogged(t, dir+"/audit.log")
	}
	start(t, dir)
	verifyAudit(t, dir)
}

// TestDiskFull limits the file size of a gateway that signs, which has the effect of a full disk.
// The gateway must then sign nothing and return a specific error. When the limit is lifted, it must
// continue without a restart.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir() + "/gateway"
	g := start(t, dir)
	l := startLoad(t, g.Env, 16)
	log := g.Env["KMSGATE_AUDIT_FILE"]
	size := func(file string) int64 {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	// The limit applies to every file. The log must reach it before the database does.
	waitFor(t, "a log larger than the database", func() bool { return size(log) > 2*size(dir+"/kmsgate.db") })
	limit := func(bytes uint64) {
		t.Helper()
		err := unix.Prlimit(g.Pid(), unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: bytes, Max: unix.RLIM_INFINITY}, nil)
		if err != nil {
			t.Fatal(err)
		}
	}
	limit(uint64(size(log)) + 2000)
	const unavailable = "503 ServiceUnavailableTemporary"
	waitFor(t, "the gateway to notice the full disk", func() bool { return l.refusals(unavailable) > 20 })
	// A batch of lines that did not fit may have left room for a smaller batch. Therefore the test
	// now lowers the limit to the log's size, and waits for the requests in flight.
	limit(uint64(size(log)))
	refused := l.refusals(unavailable)
	waitFor(t, "all callers to be refused", func() bool { return l.refusals(unavailable) > refused+200 })
	full := l.count()
	waitFor(t, "more callers to be refused", func() bool { return l.refusals(unavailable) > refused+400 })
	if l.count() != full {
		t.Errorf("got %d signatures on a full disk, want none", l.count()-full)
	}
	if !strings.Contains(g.Output(), "the audit log cannot be written") {
		t.Error("the gateway's log has no error about the audit log")
	}
	if status, body := observe(t, g.Env, "/ready"); status != 503 || !strings.Contains(body, "file too large") {
		t.Errorf("/ready on a full disk: got %d %s, want 503 with the reason", status, body)
	}
	limit(unix.RLIM_INFINITY)
	waitFor(t, "signatures again", func() bool { return l.count() > full+200 })
	l.end()
	l.checkLogged(t, log)
	verifyAudit(t, dir)
	if status, body := observe(t, g.Env, "/ready"); status != 200 {
		t.Errorf("/ready: got %d %s, want 200", status, body)
	}
	for err := range l.other {
		t.Errorf("a caller got no response: %s", err)
	}
}

// TestQuotas measures the quotas of a shared gateway with 32 concurrent callers of each of two
// users.
func TestQuotas(t *testing.T) {
	dir := t.TempDir() + "/gateway"
	g := start(t, dir)
	env := g.Env
	config := reconfigure(t, g, "gateway: dedicated", "gateway: shared")
	env["KMSGATE_ENDPOINT"] = serve(t, config)
	other := newUser(t, env, "other", "AliyunKMSCryptoUserAccess")
	// Below the documented 200, so that a slow machine exceeds them too.
	quotas := []int{20, 40}
	administer(t, env, "quota", "update", "--user", "dev", "--quota", "asymmetric", "--qps", fmt.Sprint(quotas[0]))
	administer(t, env, "quota", "update", "--user", "other", "--quota", "asymmetric", "--qps", fmt.Sprint(quotas[1]))
	began := time.Now()
	loads := []*load{startLoad(t, env, 32), startLoad(t, other, 32)}
	for i, l := range loads {
		waitFor(t, "the quota to be exceeded", func() bool {
			return l.refusals("429 Rejected.Throttling") > 20 && l.count() > 2*quotas[i]
		})
	}
	for _, l := range loads {
		l.end()
	}
	took := time.Since(began)
	for i, l := range loads {
		// A full bucket, and the tokens that were added to it.
		if limit := quotas[i] + int(float64(quotas[i])*took.Seconds()) + 1; l.count() > limit {
			t.Errorf("user %d got %d signatures in %v, want at most %d", i, l.count(), took, limit)
		}
	}
}

// TestStrangersTakeNoDescriptors opens as many connections as it can to two listeners. The gateway
// must still be ready and sign, because it keeps file descriptors for the token.
func TestStrangersTakeNoDescriptors(t *testing.T) {
	dir := t.TempDir() + "/gateway"
	g := start(t, dir)
	env := g.Env
	config := reconfigure(t, g, "listeners:\n", "listeners:\n    - address: 127.0.0.1:0\n")
	addresses := strings.Fields(serve(t, config, "sh", "-c", `ulimit -n 300; exec "$@"`, "sh"))
	if len(addresses) != 2 {
		t.Fatalf("got listeners %v, want 2", addresses)
	}
	open := 0
	for source := range 6 {
		dialer := &net.Dialer{Timeout: time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 200, byte(source+1))}}
		for n := range 200 {
			conn, err := dialer.Dial("tcp", addresses[n%2])
			if err != nil {
				continue // the listener has reached its limit
			}
			defer conn.Close()
			if _, err := conn.Write([]byte{0x16}); err == nil {
				open++
			}
		}
	}
	if open < 200 {
		t.Fatalf("opened %d connections, want at least 200: the test shows nothing", open)
	}
	env["KMSGATE_ENDPOINT"] = addresses[1]
	if status, body := observe(t, env, "/ready"); status != 200 {
		t.Errorf("/ready: got %d %s, want 200", status, body)
	}
	waitFor(t, "a connection that can sign", func() bool {
		client, err := devgateway.SDK(env)
		if err != nil {
			t.Fatal(err)
		}
		_, _, _, err = newSDK{client}.sign(env["KMSGATE_KEY_EC_P256"], env["KMSGATE_KEYVERSION_EC_P256"],
			hsm.ECDSA_SHA_256, make([]byte, 32))
		return err == nil
	})
}

// reconfigure stops a gateway and replaces before with after in its configuration. It returns the
// configuration's path, for serve.
func reconfigure(t *testing.T, g *devgateway.Gateway, before, after string) (config string) {
	t.Helper()
	if err := g.Stop(); err != nil {
		t.Fatal(err)
	}
	config = g.Dir + "/kmsgate.yaml"
	text, err := os.ReadFile(config)
	if err != nil || !bytes.Contains(text, []byte(before)) {
		t.Fatalf("the configuration does not contain %q, %v", before, err)
	}
	if err := os.WriteFile(config, bytes.Replace(text, []byte(before), []byte(after), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	return config
}

// serve runs `kmsgate serve` until the test ends, and returns its addresses, separated by spaces.
// The command line starts with the arguments wrapper, if there are any. The gateway must log no
// error.
func serve(t *testing.T, config string, wrapper ...string) (address string) {
	t.Helper()
	args := append(wrapper, binary, "serve", "--config", config)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = devgateway.Environment()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(cmd.Process.Signal(os.Interrupt), cmd.Wait(), log.Close()); err != nil {
			t.Errorf("kmsgate serve: %v", err)
		}
		if text, err := os.ReadFile(log.Name()); err != nil || bytes.Contains(text, []byte("level=ERROR")) {
			t.Errorf("kmsgate serve logged an error: %v\n%s", err, text)
		}
	})
	listeners := regexp.MustCompile(`listeners="?\[(.*?)\]`)
	waitFor(t, "kmsgate serve", func() bool {
		content, err := os.ReadFile(log.Name())
		if m := listeners.FindSubmatch(content); err == nil && m != nil {
			address = string(m[1])
		}
		return address != ""
	})
	return address
}
