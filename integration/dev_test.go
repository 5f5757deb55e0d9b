package integration

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	kms "github.com/alibabacloud-go/kms-20160120/v3/client"
	"github.com/alibabacloud-go/tea/tea"

	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/integration/devgateway"
)

// signAll signs once with each of the gateway's keys.
func signAll(t *testing.T, g *devgateway.Gateway) {
	t.Helper()
	client, err := devgateway.SDK(g.Env)
	if err != nil {
		t.Fatal(err)
	}
	c := newSDK{client}
	for _, spec := range devgateway.KeySpecs {
		keyId, versionId, alg := g.Env["KMSGATE_KEY_"+string(spec)], g.Env["KMSGATE_KEYVERSION_"+string(spec)], hsm.Algorithms(spec)[0]
		digest := make([]byte, 32)
		_, _, sig, err := c.sign(keyId, versionId, alg, digest)
		if err != nil {
			t.Fatalf("%s: %v", spec, err)
		}
		if ok, err := c.verify(keyId, versionId, alg, digest, sig); err != nil || !ok {
			t.Errorf("%s: %v, %v", spec, ok, err)
		}
	}
}

// same compares what two runs on one directory exported, but for the port.
func same(t *testing.T, before, after map[string]string) {
	t.Helper()
	for name, value := range before {
		if name != "KMSGATE_ENDPOINT" && after[name] != value {
			t.Errorf("%s was %q and is %q", name, value, after[name])
		}
	}
	if len(before) != len(after) {
		t.Errorf("%d names were exported, now %d", len(before), len(after))
	}
}

// TestEnv checks what a program that sources DIR/env finds.
func TestEnv(t *testing.T) {
	dir := t.TempDir() + "/gateway"
	g := start(t, dir)
	want := []string{"KMSGATE_ENDPOINT", "KMSGATE_CA_FILE", "KMSGATE_INSTANCE_ID", "KMSGATE_REGION_ID", "KMSGATE_ACCOUNT_ID", "KMSGATE_ACCESS_KEY_ID", "KMSGATE_ACCESS_KEY_SECRET",
		"KMSGATE_ADMIN_SOCKET", "KMSGATE_AUDIT_FILE", "KMSGATE_AUDIT_PUBLIC_KEY", "KMSGATE_CLIENT_KEY_FILE", "KMSGATE_CLIENT_KEY_PASSWORD"}
	for _, spec := range devgateway.KeySpecs {
		want = append(want, "KMSGATE_KEY_"+string(spec), "KMSGATE_KEYVERSION_"+string(spec))
	}
	for _, name := range want {
		if g.Env[name] == "" {
			t.Errorf("%s is not exported", name)
		}
	}
	if len(g.Env) != len(want) {
		t.Errorf("%d names are exported, want %d", len(g.Env), len(want))
	}
	// A shell reads it as we do.
	out, err := exec.Command("sh", "-c", ". "+dir+"/env && env").Output()
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range g.Env {
		if !bytes.Contains(out, []byte(name+"="+value+"\n")) {
			t.Errorf("a shell does not see %s=%s", name, value)
		}
	}
	// Nothing that is secret can be read by others.
	public := []string{g.Env["KMSGATE_CA_FILE"], g.Env["KMSGATE_AUDIT_PUBLIC_KEY"]}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 && !slices.Contains(public, path) {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestStartAgain stops a gateway in every way and starts it again.
func TestStartAgain(t *testing.T) {
	dir := t.TempDir() + "/gateway"
	g := start(t, dir)
	signAll(t, g)
	first := g.Env
	for name, stop := range map[string]func(*devgateway.Gateway) error{
		"SIGTERM": (*devgateway.Gateway).Stop,
		"SIGINT":  (*devgateway.Gateway).Interrupt,
		"SIGKILL": (*devgateway.Gateway).Kill,
	} {
		if err := stop(g); err != nil {
			t.Errorf("%s: %v\n%s", name, err, g.Output())
		}
		if _, err := os.Stat(dir + "/env"); name != "SIGKILL" && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s left DIR/env: %v", name, err)
		}
		g = start(t, dir)
		same(t, first, g.Env)
		signAll(t, g)
	}
}

// TestKilledUnderLoad kills a gateway while 16 callers make keys, versions and
// aliases. What was acknowledged is there afterwards; all that is there, signs;
// and the audit log is whole.
func TestKilledUnderLoad(t *testing.T) {
	dir := t.TempDir() + "/gateway"
	var g *devgateway.Gateway
	var mu sync.Mutex
	acknowledged := make(map[string]string) // KeyVersionId → KeyId; guarded by mu
	acknowledge := func(keyId, versionId string) {
		mu.Lock()
		defer mu.Unlock()
		acknowledged[versionId] = keyId
	}
	for range 3 {
		g = start(t, dir)
		var made atomic.Int32
		var gone atomic.Bool
		var callers sync.WaitGroup
		for range 16 {
			client, err := devgateway.SDK(g.Env)
			if err != nil {
				t.Fatal(err)
			}
			callers.Go(func() {
				for {
					keyId, versionId, err := newKey(client)
					if gone.Load() {
						return
					} else if err != nil {
						continue // too much at once for a slow disk
					}
					acknowledge(keyId, versionId)
					if version, err := client.CreateKeyVersion(&kms.CreateKeyVersionRequest{KeyId: &keyId}); err == nil {
						acknowledge(keyId, tea.StringValue(version.Body.KeyVersion.KeyVersionId))
					}
					if _, err := client.CreateAlias(&kms.CreateAliasRequest{KeyId: &keyId, AliasName: tea.String("alias/" + keyId)}); err == nil {
						made.Add(1)
					}
				}
			})
		}
		waitFor(t, "keys to be made", func() bool { return made.Load() >= 20 })
		gone.Store(true)
		if err := g.Kill(); err != nil {
			t.Fatal(err)
		}
		callers.Wait()
	}
	g = start(t, dir)
	client, err := devgateway.SDK(g.Env)
	if err != nil {
		t.Fatal(err)
	}
	c := newSDK{client}
	for versionId, keyId := range allVersions(t, client) {
		described := must[*kms.DescribeKeyResponse](t)(client.DescribeKey(&kms.DescribeKeyRequest{KeyId: &keyId}))
		alg := hsm.Algorithms(hsm.KeySpec(tea.StringValue(described.Body.KeyMetadata.KeySpec)))[0]
		if _, _, _, err := c.sign(keyId, versionId, alg, make([]byte, 32)); err != nil {
			t.Errorf("a version that is listed does not sign: %v", err)
		}
		delete(acknowledged, versionId)
	}
	for versionId := range acknowledged {
		t.Errorf("the version %s was acknowledged and is not there", versionId)
	}
	verifyAudit(t, dir)
}

// waitFor waits until a condition holds, or fails the test after 30 s.
func waitFor(t *testing.T, what string, holds func() bool) {
	t.Helper()
	poll := time.NewTicker(2 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(30 * time.Second); !holds(); <-poll.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited 30 s for %s", what)
		}
	}
}

// allVersions lists every version of every key: KeyVersionId → KeyId.
func allVersions(t *testing.T, client *kms.Client) map[string]string {
	t.Helper()
	all := make(map[string]string)
	for page := int32(1); ; page++ {
		keys := must[*kms.ListKeysResponse](t)(client.ListKeys(&kms.ListKeysRequest{PageNumber: &page, PageSize: tea.Int32(100)})).Body.Keys.Key
		for _, k := range keys {
			for _, v := range must[*kms.ListKeyVersionsResponse](t)(client.ListKeyVersions(&kms.ListKeyVersionsRequest{KeyId: k.KeyId})).Body.KeyVersions.KeyVersion {
				all[tea.StringValue(v.KeyVersionId)] = tea.StringValue(k.KeyId)
			}
		}
		if len(keys) == 0 {
			return all
		}
	}
}

// verifyAudit holds a gateway's audit log against its public key. It waits for the
// first checkpoint.
func verifyAudit(t *testing.T, dir string) (proof audit.VerifyResult) {
	t.Helper()
	var err error
	waitFor(t, "a checkpoint in the audit log", func() bool {
		proof, err = tryVerifyAudit(t, dir)
		return proof.Checkpoints > 0 || err == nil
	})
	if err != nil {
		t.Errorf("the audit log is broken: %v", err)
	}
	return proof
}

func tryVerifyAudit(t *testing.T, dir string) (audit.VerifyResult, error) {
	t.Helper()
	text, err := os.ReadFile(dir + "/audit-public-key.pem")
	if err != nil {
		t.Fatal(err)
	}
	key, err := audit.ParsePublicKey(text)
	if err != nil {
		t.Fatal(err)
	}
	paths, err := audit.Files(dir + "/audit.log")
	if err != nil {
		t.Fatal(err)
	}
	var files []audit.File
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		// The gateway may be writing the last line.
		files = append(files, audit.File{Name: path, Reader: bytes.NewReader(content[:bytes.LastIndexByte(content, '\n')+1])})
	}
	return audit.Verifier{Key: key}.Verify(files...)
}

// TestAudit finds the line of every request by its RequestId.
func TestAudit(t *testing.T) {
	dir := t.TempDir() + "/gateway"
	g := start(t, dir)
	old := newOldSDK(t, g.Env)
	signAll(t, g)
	if _, _, _, err := old.sign("alias/none", "none", hsm.ECDSA_SHA_256, make([]byte, 32)); err == nil {
		t.Fatal("an unknown alias signs")
	} else {
		_, requestId := seen(t, err)
		content, err := os.ReadFile(dir + "/audit.log")
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(content) {
			var e audit.Entry
			if err := json.Unmarshal(line, &e); err != nil {
				t.Fatal(err)
			}
			if e.RequestId == requestId {
				if e.Action != "AsymmetricSign" || e.Code != "Forbidden.AliasNotFound" || e.Alias != "alias/none" ||
					e.AccessKeyId != g.Env["KMSGATE_ACCESS_KEY_ID"] || e.Principal != "dev" || e.Source != "127.0.0.1" || e.Duration <= 0 {
					t.Errorf("the line says %+v", e)
				}
				requestId = ""
			}
		}
		if requestId != "" {
			t.Errorf("request %s has no line", requestId)
		}
	}
	verifyAudit(t, dir)
}

// TestSecretsStaySecret looks for the PIN and the AccessKeySecret in all that a
// gateway writes and prints, with every request logged.
func TestSecretsStaySecret(t *testing.T) {
	dir := t.TempDir() + "/gateway"
	g := start(t, dir, "--verbose")
	signAll(t, g)
	wrong := map[string]string{}
	for name, value := range g.Env {
		wrong[name] = value
	}
	wrong["KMSGATE_ACCESS_KEY_SECRET"] = "wrong"
	if _, _, _, err := newOldSDK(t, wrong).sign("alias/none", "none", hsm.ECDSA_SHA_256, make([]byte, 32)); err == nil {
		t.Error("a wrong secret signs in")
	}
	pin, err := os.ReadFile(dir + "/softhsm/pin")
	if err != nil {
		t.Fatal(err)
	}
	secrets := map[string]string{"the PIN": strings.TrimSpace(string(pin)), "the AccessKeySecret": g.Env["KMSGATE_ACCESS_KEY_SECRET"]}
	where := map[string]string{"what it printed": g.Output()}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		where[strings.TrimPrefix(path, dir+"/")] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, secret := range secrets {
		if len(secret) < 16 {
			t.Fatalf("%s is %d characters long", name, len(secret))
		}
		for place, content := range where {
			told := place == "env" && name == "the AccessKeySecret" || place == "softhsm/pin" && name == "the PIN"
			if strings.Contains(content, secret) != told {
				t.Errorf("%s is in %s: %v, want %v", name, place, !told, told)
			}
		}
	}
	if !strings.Contains(where["what it printed"], "msg=request") {
		t.Error("no request was logged, so this test shows nothing")
	}
	for _, parameter := range []string{"SignatureNonce", "Digest="} {
		if strings.Contains(strings.SplitN(where["what it printed"], "Ctrl-C", 2)[1], parameter) {
			t.Errorf("the log has a request's URI in it: %s", parameter)
		}
	}
}

// TestTemporary runs without --dir: nothing is left.
func TestTemporary(t *testing.T) {
	temp := t.TempDir()
	cmd := exec.Command(binary, "dev", "--listen", "127.0.0.1:0")
	cmd.Env = append(devgateway.Environment(), "TMPDIR="+temp)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	banner := make([]byte, 16) // printed when it serves
	if _, err := out.Read(banner); err != nil {
		t.Fatal(err)
	}
	dirs, err := filepath.Glob(temp + "/kmsgate-dev-*/env")
	if err != nil || len(dirs) != 1 {
		t.Errorf("while it runs: %v, %v", dirs, err)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) != 0 {
		t.Errorf("it left %v, %v", left, err)
	}
}

// TestCannotStart: each reason is one sentence and exit status 1, and nothing
// is made or changed.
func TestCannotStart(t *testing.T) {
	g := start(t, t.TempDir()+"/gateway")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, tc := range map[string]struct {
		dir  string
		args []string
		env  string
		want string
	}{
		"port taken":      {t.TempDir() + "/new", []string{"--listen", taken.Addr().String()}, "", "--listen"},
		"no SoftHSM":      {t.TempDir() + "/new", []string{"--listen", "127.0.0.1:0"}, "SOFTHSM2_MODULE=/nonexistent.so", "apt-get install softhsm2"},
		"directory taken": {g.Dir, []string{"--listen", "127.0.0.1:0"}, "", "--dir"},
		"no such address": {t.TempDir() + "/new", []string{"--listen", "nonsense"}, "", "nonsense"},
	} {
		cmd := exec.Command(binary, append([]string{"dev", "--dir", tc.dir}, tc.args...)...)
		cmd.Env = append(devgateway.Environment(), tc.env)
		out, err := cmd.CombinedOutput()
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("%s: %v, want exit status 1", name, err)
		}
		if text := string(out); strings.Count(text, "\n") != 1 || !strings.Contains(text, tc.want) {
			t.Errorf("%s: it says %q, want one line with %q", name, text, tc.want)
		}
		if _, err := os.Stat(tc.dir); tc.dir != g.Dir && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: it left %s", name, tc.dir)
		}
	}
	signAll(t, g) // the one whose directory it was is not disturbed
	if _, err := os.Stat(g.Dir + "/env"); err != nil {
		t.Error(err)
	}
}

// TestStartCutOff kills a gateway at growing moments of its first start, and
// stops it at those of a later one.
func TestStartCutOff(t *testing.T) {
	for _, with := range []os.Signal{os.Kill, os.Interrupt} {
		t.Run(with.String(), func(t *testing.T) { testStartCutOff(t, with) })
	}
}

func testStartCutOff(t *testing.T, with os.Signal) {
	dir := t.TempDir() + "/gateway"
	if with == os.Interrupt {
		start(t, dir).Stop()
	}
	for delay := 5 * time.Millisecond; ; delay += delay / 4 {
		cmd := exec.Command(binary, "dev", "--dir", dir, "--listen", "127.0.0.1:0")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var exited atomic.Bool
		var once sync.Once                                                    // a second interrupt ends a process that obeys the first
		cutOff := func() { once.Do(func() { _ = cmd.Process.Signal(with) }) } // it may have ended
		timer := time.AfterFunc(delay, cutOff)
		go func() {
			err := cmd.Wait()
			if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !(ok && exit.Sys().(syscall.WaitStatus).Signaled()) {
				t.Errorf("stopped after %v: %v\n%s", delay, err, stderr.String())
			}
			exited.Store(true)
		}()
		ready := false
		waitFor(t, "the start to end or to be cut off", func() bool {
			_, err := os.Stat(dir + "/env")
			ready = err == nil
			return ready || exited.Load()
		})
		timer.Stop()
		cutOff()
		waitFor(t, "the process to end", exited.Load)
		if ready {
			break
		}
	}
	g := start(t, dir)
	signAll(t, g)
	client, err := devgateway.SDK(g.Env)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := countKeys(client); err != nil || n != len(devgateway.KeySpecs) {
		t.Errorf("%d keys, %v: want one of each KeySpec", n, err)
	}
}

// TestTokenLost takes the token's files away from a gateway that signs, and
// puts them back.
func TestTokenLost(t *testing.T) {
	dir := t.TempDir() + "/gateway"
	g := start(t, dir)
	signAll(t, g)
	client, err := devgateway.SDK(g.Env)
	if err != nil {
		t.Fatal(err)
	}
	c := newSDK{client}
	keyId, versionId := g.Env["KMSGATE_KEY_EC_P256"], g.Env["KMSGATE_KEYVERSION_EC_P256"]
	digest := make([]byte, 32)
	_, _, sig, err := c.sign(keyId, versionId, hsm.ECDSA_SHA_256, digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir+"/softhsm/tokens", dir+"/away"); err != nil {
		t.Fatal(err)
	}
	// A session copy of a key signs without the files, until it is seen that they
	// are away.
	waitFor(t, "the loss to be seen", func() bool {
		status, _ := observe(t, g.Env, "/ready")
		return status == 503
	})
	unavailable := func(what string, err error) {
		t.Helper()
		if err == nil {
			t.Errorf("%s succeeds without a token", what)
		} else if got, _ := seen(t, err); got != "503 ServiceUnavailableTemporary" {
			t.Errorf("%s without a token: %v", what, err)
		}
	}
	_, _, _, err = c.sign(keyId, versionId, hsm.ECDSA_SHA_256, digest)
	unavailable("AsymmetricSign", err)
	_, _, err = newKey(client)
	unavailable("CreateKey", err)
	_, _, _, err = c.sign(g.Env["KMSGATE_KEY_EC_SM2"], g.Env["KMSGATE_KEYVERSION_EC_SM2"], hsm.SM2DSA, digest)
	unavailable("AsymmetricSign with a software key", err)
	worksWithoutToken(t, g.Env, sig, digest)
	if err := os.Rename(dir+"/away", dir+"/softhsm/tokens"); err != nil {
		t.Fatal(err)
	}
	signAll(t, g)
	if n, err := countKeys(client); err != nil || n != len(devgateway.KeySpecs) {
		t.Errorf("%d keys, %v: want no more than before", n, err)
	}
	verifyAudit(t, dir)
}

// TestCertificate connects by every name that the server's certificate is for.
func TestCertificate(t *testing.T) {
	g := start(t, t.TempDir()+"/gateway")
	ca, err := os.ReadFile(g.Env["KMSGATE_CA_FILE"])
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"localhost", "127.0.0.1", "::1", g.Env["KMSGATE_INSTANCE_ID"], g.Env["KMSGATE_INSTANCE_ID"] + ".cryptoservice.kms.aliyuncs.com"} {
		conn, err := tls.Dial("tcp", g.Env["KMSGATE_ENDPOINT"], &tls.Config{RootCAs: pool(t, string(ca)), ServerName: name})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		conn.Close()
	}
}

// TestNoCore: a crash writes no memory to a file.
func TestNoCore(t *testing.T) {
	g := start(t, t.TempDir()+"/gateway")
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", g.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(limits)) {
		if rest, ok := strings.CutPrefix(line, "Max core file size"); ok && strings.Join(strings.Fields(rest), " ") != "0 0 bytes" {
			t.Errorf("core files are limited to %s", rest)
		}
	}
}

// TestBanner pastes what the banner says to paste.
func TestBanner(t *testing.T) {
	g := start(t, t.TempDir()+"/gateway")
	// Printed after env was written.
	waitFor(t, "the banner", func() bool { return strings.Contains(g.Output(), "Ctrl-C") })
	_, script, _ := strings.Cut(g.Output(), "needs curl and openssl):\n")
	script, _, ok := strings.Cut(script, "Ctrl-C")
	if !ok {
		t.Fatalf("the banner has no call to paste:\n%s", g.Output())
	}
	for _, shell := range []string{"sh", "bash"} {
		out, err := exec.Command(shell, "-c", script).CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte(fmt.Sprintf(`"KeyId":"%s"`, g.Env["KMSGATE_KEY_EC_P256"]))) || !bytes.Contains(out, []byte(`"Value":"`)) {
			t.Errorf("%s: %v: %s", shell, err, out)
		}
	}
}
