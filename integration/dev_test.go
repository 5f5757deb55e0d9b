package integration

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
		keyId, versionId := g.Env["KMSGATE_KEY_"+string(spec)], g.Env["KMSGATE_KEYVERSION_"+string(spec)]
		alg := hsm.Algorithms(spec)[0]
		digest := make([]byte, 32)
		_, _, sig, err := c.sign(keyId, versionId, alg, digest)
		if err != nil {
			t.Fatalf("signing with the %s key: %v", spec, err)
		}
		if ok, err := c.verify(keyId, versionId, alg, digest, sig); err != nil || !ok {
			t.Errorf("AsymmetricVerify with the %s key: got %v, %v, want true", spec, ok, err)
		}
	}
}

// checkSameEnv compares the variables that two runs on one directory export, except for the
// endpoint, whose port differs.
func checkSameEnv(t *testing.T, before, after map[string]string) {
	t.Helper()
	for name, value := range before {
		if name != "KMSGATE_ENDPOINT" && after[name] != value {
			t.Errorf("%s after the restart: got %q, want %q", name, after[name], value)
		}
	}
	if len(before) != len(after) {
		t.Errorf("got %d variables after the restart, want %d", len(after), len(before))
	}
}

// TestEnv checks the variables that DIR/env exports, and the modes of the files in DIR.
func TestEnv(t *testing.T) {
	dir := t.TempDir() + "/gateway"
	g := start(t, dir)
	want := []string{
		"KMSGATE_ENDPOINT", "KMSGATE_CA_FILE", "KMSGATE_INSTANCE_ID", "KMSGATE_REGION_ID", "KMSGATE_ACCOUNT_ID",
		"KMSGATE_ACCESS_KEY_ID", "KMSGATE_ACCESS_KEY_SECRET", "KMSGATE_ADMIN_SOCKET", "KMSGATE_AUDIT_FILE",
		"KMSGATE_AUDIT_PUBLIC_KEY", "KMSGATE_CLIENT_KEY_FILE", "KMSGATE_CLIENT_KEY_PASSWORD",
		"ALIBABA_CLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_SECRET", "ALIBABA_CLOUD_REGION_ID",
	}
	for _, spec := range devgateway.KeySpecs {
		want = append(want, "KMSGATE_KEY_"+string(spec), "KMSGATE_KEYVERSION_"+string(spec))
	}
	for _, name := range want {
		if g.Env[name] == "" {
			t.Errorf("DIR/env does not export %s", name)
		}
	}
	if len(g.Env) != len(want) {
		t.Errorf("DIR/env exports %d variables, want %d", len(g.Env), len(want))
	}
	// A shell must read the same values as devgateway.ReadEnv.
	out, err := exec.Command("sh", "-c", ". "+dir+"/env && env").Output()
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range g.Env {
		if !bytes.Contains(out, []byte(name+"="+value+"\n")) {
			t.Errorf("a shell that sources DIR/env does not have %s=%s", name, value)
		}
	}
	// Other users must not be able to read secrets.
	public := []string{g.Env["KMSGATE_CA_FILE"], g.Env["KMSGATE_AUDIT_PUBLIC_KEY"]}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 && !slices.Contains(public, path) {
			t.Errorf("%s has mode %v, want no access for other users", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestKilledUnderLoad kills a gateway while 16 callers create keys, versions and aliases. After a
// restart, the gateway must list every acknowledged version, every listed version must sign, and
// the audit log must be complete.
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
		var created atomic.Int32
		var killed atomic.Bool
		var callers sync.WaitGroup
		for range 16 {
			client, err := devgateway.SDK(g.Env)
			if err != nil {
				t.Fatal(err)
			}
			callers.Go(func() {
				for {
					keyId, versionId, err := newKey(client)
					if killed.Load() {
						return
					} else if err != nil {
						continue // a slow disk cannot always keep up
					}
					acknowledge(keyId, versionId)
					version, err := client.CreateKeyVersion(&kms.CreateKeyVersionRequest{KeyId: &keyId})
					if err == nil {
						acknowledge(keyId, tea.StringValue(version.Body.KeyVersion.KeyVersionId))
					}
					alias := &kms.CreateAliasRequest{KeyId: &keyId, AliasName: tea.String("alias/" + keyId)}
					if _, err := client.CreateAlias(alias); err == nil {
						created.Add(1)
					}
				}
			})
		}
		waitFor(t, "20 keys with aliases", func() bool { return created.Load() >= 20 })
		killed.Store(true)
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
		described := require[*kms.DescribeKeyResponse](t)(client.DescribeKey(&kms.DescribeKeyRequest{KeyId: &keyId}))
		alg := hsm.Algorithms(hsm.KeySpec(tea.StringValue(described.Body.KeyMetadata.KeySpec)))[0]
		if _, _, _, err := c.sign(keyId, versionId, alg, make([]byte, 32)); err != nil {
			t.Errorf("signing with the listed version %s: %v", versionId, err)
		}
		delete(acknowledged, versionId)
	}
	for versionId := range acknowledged {
		t.Errorf("version %s was acknowledged but is not listed", versionId)
	}
	verifyAudit(t, dir)
}

// waitFor waits until a condition holds. It ends the test if that takes more than 30 s.
func waitFor(t *testing.T, condition string, holds func() bool) {
	t.Helper()
	poll := time.NewTicker(2 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(30 * time.Second); !holds(); <-poll.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited 30 s for %s", condition)
		}
	}
}

// allVersions returns every version of every key: KeyVersionId → KeyId.
func allVersions(t *testing.T, client *kms.Client) map[string]string {
	t.Helper()
	all := make(map[string]string)
	for page := int32(1); ; page++ {
		keys := require[*kms.ListKeysResponse](t)(client.ListKeys(
			&kms.ListKeysRequest{PageNumber: &page, PageSize: tea.Int32(100)})).Body.Keys.Key
		for _, k := range keys {
			versions := require[*kms.ListKeyVersionsResponse](t)(client.ListKeyVersions(
				&kms.ListKeyVersionsRequest{KeyId: k.KeyId})).Body.KeyVersions.KeyVersion
			for _, v := range versions {
				all[tea.StringValue(v.KeyVersionId)] = tea.StringValue(k.KeyId)
			}
		}
		if len(keys) == 0 {
			return all
		}
	}
}

// verifyAudit verifies a gateway's audit log with its public key. It waits for the first
// checkpoint.
func verifyAudit(t *testing.T, dir string) (proof audit.VerifyResult) {
	t.Helper()
	var err error
	waitFor(t, "a checkpoint in the audit log", func() bool {
		proof, err = tryVerifyAudit(t, dir)
		return proof.Checkpoints > 0 || err == nil
	})
	if err != nil {
		t.Errorf("verifying the audit log: %v", err)
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
		content = content[:bytes.LastIndexByte(content, '\n')+1]
		files = append(files, audit.File{Name: path, Reader: bytes.NewReader(content)})
	}
	return audit.Verifier{Key: key}.Verify(files...)
}

// TestAudit finds the audit line of a refused request by its RequestId.
func TestAudit(t *testing.T) {
	dir := t.TempDir() + "/gateway"
	g := start(t, dir)
	old := newOldSDK(t, g.Env)
	signAll(t, g)
	if _, _, _, err := old.sign("alias/none", "none", hsm.ECDSA_SHA_256, make([]byte, 32)); err == nil {
		t.Fatal("signing with an unknown alias: got no error")
	} else {
		_, requestId := errorCode(t, err)
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
					e.AccessKeyId != g.Env["KMSGATE_ACCESS_KEY_ID"] || e.Principal != "dev" ||
					e.Source != "127.0.0.1" || e.DurationNanoseconds <= 0 {
					t.Errorf("got the audit line %+v", e)
				}
				requestId = ""
			}
		}
		if requestId != "" {
			t.Errorf("the audit log has no line for request %s", requestId)
		}
	}
	verifyAudit(t, dir)
}

// TestSecretsStaySecret searches all that a gateway writes and prints for the PIN and the
// AccessKeySecret. The gateway logs every request.
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
		t.Error("signing with a wrong AccessKeySecret: got no error")
	}
	pin, err := os.ReadFile(dir + "/softhsm/pin")
	if err != nil {
		t.Fatal(err)
	}
	secrets := map[string]string{
		"the PIN": strings.TrimSpace(string(pin)), "the AccessKeySecret": g.Env["KMSGATE_ACCESS_KEY_SECRET"],
	}
	waitFor(t, "the last request in the log", func() bool { return strings.Contains(g.Output(), "request refused") })
	places := map[string]string{"its output": g.Output()}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		places[strings.TrimPrefix(path, dir+"/")] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, secret := range secrets {
		if len(secret) < 16 {
			t.Fatalf("%s has %d characters, want at least 16", name, len(secret))
		}
		for place, content := range places {
			want := place == "env" && name == "the AccessKeySecret" || place == "softhsm/pin" && name == "the PIN"
			if strings.Contains(content, secret) != want {
				t.Errorf("%s is in %s: got %v, want %v", name, place, !want, want)
			}
		}
	}
	if !strings.Contains(places["its output"], "msg=request") {
		t.Error("the gateway logged no request: the test shows nothing")
	}
	for _, parameter := range []string{"SignatureNonce", "Digest="} {
		if strings.Contains(strings.SplitN(places["its output"], "Ctrl-C", 2)[1], parameter) {
			t.Errorf("the log contains %s of a request's URI", parameter)
		}
	}
}

// TestTokenLost moves the token's files away from a gateway that signs, and moves them back.
func TestTokenLost(t *testing.T) {
	t.Parallel()
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
	// A session copy of a key can sign without the files until the gateway notices the loss.
	waitFor(t, "the gateway to notice the loss", func() bool {
		status, _ := observe(t, g.Env, "/ready")
		return status == 503
	})
	unavailable := func(request string, err error) {
		t.Helper()
		if got, _ := errorCode(t, err); got != "503 ServiceUnavailableTemporary" {
			t.Errorf("%s without a token: got %v, want 503 ServiceUnavailableTemporary", request, err)
		}
	}
	_, _, _, err = c.sign(keyId, versionId, hsm.ECDSA_SHA_256, digest)
	unavailable("AsymmetricSign", err)
	_, _, err = newKey(client)
	unavailable("CreateKey", err)
	_, _, _, err = c.sign(g.Env["KMSGATE_KEY_EC_SM2"], g.Env["KMSGATE_KEYVERSION_EC_SM2"], hsm.SM2DSA, digest)
	unavailable("AsymmetricSign with a software key", err)
	testWithoutToken(t, g.Env, sig, digest)
	if err := os.Rename(dir+"/away", dir+"/softhsm/tokens"); err != nil {
		t.Fatal(err)
	}
	signAll(t, g)
	if n, err := countKeys(client); err != nil || n != len(devgateway.KeySpecs) {
		t.Errorf("got %d keys, %v, want as many as before", n, err)
	}
	verifyAudit(t, dir)
}

// TestCertificate connects with every name that the server's certificate contains.
func TestCertificate(t *testing.T) {
	g := start(t, t.TempDir()+"/gateway")
	ca, err := os.ReadFile(g.Env["KMSGATE_CA_FILE"])
	if err != nil {
		t.Fatal(err)
	}
	instance := g.Env["KMSGATE_INSTANCE_ID"]
	names := []string{"localhost", "127.0.0.1", "::1", instance, instance + ".cryptoservice.kms.aliyuncs.com"}
	for _, name := range names {
		config := &tls.Config{RootCAs: pool(t, string(ca)), ServerName: name}
		conn, err := tls.Dial("tcp", g.Env["KMSGATE_ENDPOINT"], config)
		if err != nil {
			t.Errorf("connecting to %s: %v", name, err)
			continue
		}
		conn.Close()
	}
}

// TestNoCore checks that a crash of the gateway writes no core file.
func TestNoCore(t *testing.T) {
	g := start(t, t.TempDir()+"/gateway")
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", g.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(limits)) {
		rest, ok := strings.CutPrefix(line, "Max core file size")
		if limit := strings.Join(strings.Fields(rest), " "); ok && limit != "0 0 bytes" {
			t.Errorf("got the core file limit %q, want 0 bytes", limit)
		}
	}
}

// TestBanner runs the shell commands of the banner.
func TestBanner(t *testing.T) {
	g := start(t, t.TempDir()+"/gateway")
	// The gateway prints the banner after it has written DIR/env.
	waitFor(t, "the banner", func() bool { return strings.Contains(g.Output(), "Ctrl-C") })
	_, script, _ := strings.Cut(g.Output(), "needs curl and openssl):\n")
	script, _, ok := strings.Cut(script, "Press Ctrl-C")
	if !ok {
		t.Fatalf("the banner has no commands to paste:\n%s", g.Output())
	}
	keyId := fmt.Sprintf(`"KeyId":"%s"`, g.Env["KMSGATE_KEY_EC_P256"])
	for _, shell := range []string{"sh", "bash"} {
		out, err := exec.Command(shell, "-c", script).CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte(keyId)) || !bytes.Contains(out, []byte(`"Value":"`)) {
			t.Errorf("the banner's commands in %s: %v: %s", shell, err, out)
		}
	}
}
