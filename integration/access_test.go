package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
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

// kmsgate runs a command and gives what it prints.
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

// administer runs a command on a gateway, which has to succeed.
func administer(t *testing.T, env map[string]string, args ...string) string {
	t.Helper()
	out, err := kmsgate(t, append(args, "--socket", env["KMSGATE_ADMIN_SOCKET"])...)
	if err != nil {
		t.Fatalf("kmsgate %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// newUser makes a user with an access key and gives the environment in which a
// program of that user runs.
func newUser(t *testing.T, env map[string]string, name, policyName string) map[string]string {
	t.Helper()
	administer(t, env, "user", "create", name)
	administer(t, env, "policy", "attach", policyName, "--user", name)
	var made struct{ AccessKeyId, AccessKeySecret string }
	if err := json.Unmarshal([]byte(administer(t, env, "accesskey", "create", "--user", name)), &made); err != nil {
		t.Fatal(err)
	}
	theirs := make(map[string]string)
	for n, value := range env {
		theirs[n] = value
	}
	theirs["KMSGATE_ACCESS_KEY_ID"], theirs["KMSGATE_ACCESS_KEY_SECRET"] = made.AccessKeyId, made.AccessKeySecret
	return theirs
}

func newPolicy(t *testing.T, env map[string]string, name, document string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(document), 0o600); err != nil {
		t.Fatal(err)
	}
	administer(t, env, "policy", "create", name, "--file", file)
}

// TestOneProgramOneKey is what a signing appliance is for: a program may sign with
// one key and do nothing else, every use can be seen, and an auditor can prove
// that no line was removed.
func TestOneProgramOneKey(t *testing.T) {
	dir := t.TempDir() + "/gateway"
	g := start(t, dir)
	key, version := g.Env["KMSGATE_KEY_EC_P256"], g.Env["KMSGATE_KEYVERSION_EC_P256"]
	newPolicy(t, g.Env, "one-key", `{"Version":"1","Statement":[{"Effect":"Allow","Action":["kms:AsymmetricSign","kms:GetPublicKey"],"Resource":"acs:kms:*:*:key/`+key+`"}]}`)
	app, err := devgateway.SDK(newUser(t, g.Env, "app", "one-key"))
	if err != nil {
		t.Fatal(err)
	}
	c := newSDK{app}
	digest := make([]byte, 32)
	for _, name := range []string{key, "alias/dev-ec-p256"} {
		if _, _, _, err := c.sign(name, version, hsm.ECDSA_SHA_256, digest); err != nil {
			t.Errorf("with %s: %v", name, err)
		}
	}
	denied := func(what string, err error) {
		t.Helper()
		if err == nil {
			t.Errorf("%s is permitted", what)
		} else if got, _ := seen(t, err); got != "403 Forbidden.NoPermission" {
			t.Errorf("%s: %q", what, got)
		}
	}
	_, _, _, err = c.sign("alias/dev-ec-p256k", g.Env["KMSGATE_KEYVERSION_EC_P256K"], hsm.ECDSA_SHA_256, digest)
	denied("another key", err)
	_, _, _, err = c.sign("none", version, hsm.ECDSA_SHA_256, digest)
	denied("a key that there is not", err)
	_, err = c.verify(key, version, hsm.ECDSA_SHA_256, digest, digest)
	denied("AsymmetricVerify", err)
	_, err = app.DisableKey(&kms.DisableKeyRequest{KeyId: &key})
	denied("DisableKey", err)
	_, err = app.CreateKey(&kms.CreateKeyRequest{KeySpec: tea.String("EC_P256")})
	denied("CreateKey", err)

	// A key's own policy denies what the user's allows, at once.
	everybody := fmt.Sprintf(`{"Version":"1","Statement":[{"Effect":"Deny","Principal":{"RAM":["acs:ram::%s:user/app"]},"Action":["kms:AsymmetricSign"],"Resource":["*"]}]}`, g.Env["KMSGATE_ACCOUNT_ID"])
	file := filepath.Join(t.TempDir(), "deny.json")
	if err := os.WriteFile(file, []byte(everybody), 0o600); err != nil {
		t.Fatal(err)
	}
	administer(t, g.Env, "key", "policy", "set", key, "--file", file)
	_, _, _, err = c.sign(key, version, hsm.ECDSA_SHA_256, digest)
	denied("what the key policy denies", err)

	uses, err := kmsgate(t, "audit", "search", g.Env["KMSGATE_AUDIT_FILE"], "--user", "app", "--action", "AsymmetricSign", "-o", "json")
	if err != nil || strings.Count(uses, "\n") != 5 || strings.Count(uses, `"Code":"Forbidden.NoPermission"`) != 3 {
		t.Errorf("the log shows these uses: %v\n%s", err, uses)
	}
	head := strings.TrimSpace(administer(t, g.Env, "audit", "head"))
	if err := g.Stop(); err != nil {
		t.Fatal(err)
	}
	verify := []string{"audit", "verify", g.Env["KMSGATE_AUDIT_FILE"], "--public-key", g.Env["KMSGATE_AUDIT_PUBLIC_KEY"], "--expect", head}
	if out, err := kmsgate(t, verify...); err != nil || !strings.HasPrefix(out, "proven: lines 1 to ") {
		t.Errorf("%v\n%s", err, out)
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
		t.Errorf("lines were removed and not missed:\n%s", out)
	}
}

// A load signs from many callers until it is stopped.
type load struct {
	stop    atomic.Bool
	callers sync.WaitGroup
	mu      sync.Mutex
	signed  []string         // RequestIds of signatures; guarded by mu
	refused map[string]int   // by status and code; guarded by mu
	other   map[string]error // what was no answer of the API; guarded by mu
}

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
				l.note(t, client, env)
			}
		})
	}
	t.Cleanup(func() { l.end() })
	return l
}

func (l *load) note(t *testing.T, client *kms.Client, env map[string]string) {
	resp, err := client.AsymmetricSign(&kms.AsymmetricSignRequest{KeyId: tea.String(env["KMSGATE_KEY_EC_P256"]),
		KeyVersionId: tea.String(env["KMSGATE_KEYVERSION_EC_P256"]), Algorithm: tea.String("ECDSA_SHA_256"), Digest: b64(make([]byte, 32))})
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.signed = append(l.signed, tea.StringValue(resp.Body.RequestId))
	} else if sdk := (*tea.SDKError)(nil); errors.As(err, &sdk) && tea.IntValue(sdk.StatusCode) > 0 {
		code, _ := seen(t, err)
		l.refused[code]++
	} else {
		l.other[err.Error()] = err // the gateway is gone
	}
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.signed)
}

func (l *load) refusedBy(code string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refused[code]
}

func (l *load) end() {
	l.stop.Store(true)
	l.callers.Wait()
}

// allLogged looks for the line of every answered request.
func (l *load) allLogged(t *testing.T, file string) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range l.signed {
		if !bytes.Contains(content, []byte(`"RequestId":"`+id+`"`)) {
			t.Errorf("request %s was answered and has no line", id)
		}
	}
}

// TestAnsweredMeansLogged kills a gateway that signs: every request that was
// answered has its line, and the chain is whole.
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
		l.allLogged(t, dir+"/audit.log")
	}
	start(t, dir)
	verifyAudit(t, dir)
}

// TestDiskFull lets a gateway that signs write no more than it has written: the
// file-size limit acts on it like a full disk. Nothing is signed then, callers
// are told why, and when there is room again it goes on by itself.
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
	// The limit is for every file alike, and the database shall not feel it.
	waitFor(t, "a log larger than the database", func() bool { return size(log) > 2*size(dir+"/kmsgate.db") })
	limit := func(bytes uint64) {
		t.Helper()
		if err := unix.Prlimit(g.Pid(), unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: bytes, Max: unix.RLIM_INFINITY}, nil); err != nil {
			t.Fatal(err)
		}
	}
	limit(uint64(size(log)) + 2000)
	const unavailable = "503 ServiceUnavailableTemporary"
	waitFor(t, "the full disk to be noticed", func() bool { return l.refusedBy(unavailable) > 20 })
	// What did not fit may have left room for fewer lines, which are written then. So the
	// disk is made full to the byte, and what was under way at that moment ends.
	limit(uint64(size(log)))
	refused := l.refusedBy(unavailable)
	waitFor(t, "all callers to be refused", func() bool { return l.refusedBy(unavailable) > refused+200 })
	full := l.count()
	waitFor(t, "more callers to be refused", func() bool { return l.refusedBy(unavailable) > refused+400 })
	if l.count() != full {
		t.Errorf("%d signatures were made on a full disk", l.count()-full)
	}
	if !strings.Contains(g.Output(), "the audit log cannot be written") {
		t.Error("the operator is not told")
	}
	if status, body := observe(t, g.Env, "/ready"); status != 503 || !strings.Contains(body, "file too large") {
		t.Errorf("health: %d %s", status, body)
	}
	limit(unix.RLIM_INFINITY)
	waitFor(t, "signatures again", func() bool { return l.count() > full+200 })
	l.end()
	l.allLogged(t, log)
	verifyAudit(t, dir)
	if status, body := observe(t, g.Env, "/ready"); status != 200 {
		t.Errorf("health: %d %s", status, body)
	}
	for err := range l.other {
		t.Errorf("a caller got no answer: %s", err)
	}
}

// TestQuotas measures a shared gateway's quota: 64 callers of two users at once.
func TestQuotas(t *testing.T) {
	dir := t.TempDir() + "/gateway"
	g := start(t, dir)
	env := g.Env
	config := reconfigure(t, g, "gateway: dedicated", "gateway: shared")
	env["KMSGATE_ENDPOINT"] = serve(t, config, env)
	other := newUser(t, env, "other", "AliyunKMSCryptoUserAccess")
	// Less than the documented 200, so that a slow machine feels them too.
	quotas := []int{20, 40}
	administer(t, env, "quota", "set", "--user", "dev", "--quota", "asymmetric", "--qps", fmt.Sprint(quotas[0]))
	administer(t, env, "quota", "set", "--user", "other", "--quota", "asymmetric", "--qps", fmt.Sprint(quotas[1]))
	began := time.Now()
	loads := []*load{startLoad(t, env, 32), startLoad(t, other, 32)}
	for i, l := range loads {
		waitFor(t, "the quota to be felt", func() bool {
			return l.refusedBy("429 Rejected.Throttling") > 20 && l.count() > 2*quotas[i]
		})
	}
	for _, l := range loads {
		l.end()
	}
	took := time.Since(began)
	for i, l := range loads {
		// A full bucket, and what flows into it.
		if most := quotas[i] + int(float64(quotas[i])*took.Seconds()) + 1; l.count() > most {
			t.Errorf("user %d had %d signatures in %v, and may have %d", i, l.count(), took, most)
		}
	}
}

// TestStrangersTakeNoDescriptors opens as many connections as it can to two
// listeners and the metrics: the token keeps enough files to sign with.
func TestStrangersTakeNoDescriptors(t *testing.T) {
	dir := t.TempDir() + "/gateway"
	g := start(t, dir)
	env := g.Env
	config := reconfigure(t, g, "listeners:\n", "listeners:\n    - address: 127.0.0.1:0\n")
	addresses := strings.Fields(serve(t, config, env, "sh", "-c", `ulimit -n 300; exec "$@"`, "sh"))
	if len(addresses) != 2 {
		t.Fatalf("listeners: %v", addresses)
	}
	open := 0
	for source := range 6 {
		from := &net.Dialer{Timeout: time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 200, byte(source+1))}}
		for n := range 200 {
			conn, err := from.Dial("tcp", addresses[n%2])
			if err != nil {
				continue // as intended
			}
			defer conn.Close()
			if _, err := conn.Write([]byte{0x16}); err == nil {
				open++
			}
		}
	}
	if open < 200 {
		t.Fatalf("only %d connections were made, so this shows nothing", open)
	}
	env["KMSGATE_ENDPOINT"] = addresses[1]
	if status, body := observe(t, env, "/ready"); status != 200 {
		t.Errorf("health: %d %s", status, body)
	}
	waitFor(t, "a place among the strangers", func() bool {
		client, err := devgateway.SDK(env)
		if err != nil {
			t.Fatal(err)
		}
		_, _, _, err = newSDK{client}.sign(env["KMSGATE_KEY_EC_P256"], env["KMSGATE_KEYVERSION_EC_P256"], hsm.ECDSA_SHA_256, make([]byte, 32))
		return err == nil
	})
}

// reconfigure stops a gateway and changes its configuration, for it to be served
// anew.
func reconfigure(t *testing.T, g *devgateway.Gateway, before, after string) (config string) {
	t.Helper()
	if err := g.Stop(); err != nil {
		t.Fatal(err)
	}
	config = g.Dir + "/kmsgate.yaml"
	text, err := os.ReadFile(config)
	if err != nil || !bytes.Contains(text, []byte(before)) {
		t.Fatalf("the configuration has no %q, %v", before, err)
	}
	if err := os.WriteFile(config, bytes.Replace(text, []byte(before), []byte(after), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	return config
}

// serve runs `kmsgate serve`, behind other words if there are any, until the test
// ends, and gives its addresses.
func serve(t *testing.T, config string, env map[string]string, behind ...string) (address string) {
	t.Helper()
	words := append(behind, binary, "serve", "--config", config)
	cmd := exec.Command(words[0], words[1:]...)
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
			t.Errorf("kmsgate serve says: %v\n%s", err, text)
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
