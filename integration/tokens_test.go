package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	kms "github.com/alibabacloud-go/kms-20160120/v3/client"
	"github.com/alibabacloud-go/tea/tea"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest/rig"
	"github.com/kmsgate/kmsgate/hsm/token"
	"github.com/kmsgate/kmsgate/integration/devgateway"
	"github.com/kmsgate/kmsgate/softhsm"
)

// An otherToken is a token other than SoftHSM in the gateway's process.
type otherToken struct {
	module, label, pin string
	environment        []string      // which the gateway needs for the module
	offers             []hsm.KeySpec // of the keys that the token can generate
	remote             *rig.Remote   // nil unless the token is in a process that can be killed
}

// otherTokens are functions that set up the other tokens on which the README's promises must hold.
var otherTokens = map[string]func(t *testing.T) otherToken{
	"p11-kit": func(t *testing.T) otherToken {
		initialize := func(module, label, officerPIN, userPIN string) error {
			return token.Init(module, label, token.PIN(officerPIN), token.PIN(userPIN))
		}
		soft, err := softhsm.Open(filepath.Join(t.TempDir(), "softhsm"), initialize)
		if err != nil {
			t.Fatal(err)
		}
		remote := rig.P11Kit(t, os.Getenv("SOFTHSM2_CONF"))
		return otherToken{remote.Module, softhsm.Label, soft.PIN(), []string{remote.Environment},
			[]hsm.KeySpec{hsm.RSA_2048, hsm.RSA_3072, hsm.EC_P256, hsm.EC_P256K, hsm.EC_SM2}, remote}
	},
	"opencryptoki": func(t *testing.T) otherToken {
		soft := rig.OpenCryptoki(t)
		return otherToken{module: soft.Module, label: soft.Label, pin: soft.PIN,
			offers: []hsm.KeySpec{hsm.RSA_2048, hsm.RSA_3072, hsm.EC_SM2}}
	},
}

// TestOtherTokens creates an instance on each of the other tokens, only by configuration, and signs
// through the official SDK with every KeySpec that the token offers.
func TestOtherTokens(t *testing.T) {
	for name, setUp := range otherTokens {
		t.Run(name, func(t *testing.T) { testOtherToken(t, setUp(t)) })
	}
}

func testOtherToken(t *testing.T, tok otherToken) {
	dir := t.TempDir()
	env := serveOn(t, dir, tok)
	client, err := devgateway.SDK(env)
	if err != nil {
		t.Fatal(err)
	}
	c := newSDK{client}
	for _, spec := range devgateway.KeySpecs {
		created, err := client.CreateKey(&kms.CreateKeyRequest{KeySpec: tea.String(string(spec))})
		if !contains(tok.offers, spec) {
			got, _ := errorCode(t, err)
			if got != "400 UnsupportedOperation" || !strings.Contains(err.Error(), string(spec)) {
				t.Errorf("CreateKey with %s, which the token does not offer: got %q (%v)", spec, got, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("CreateKey with %s: %v", spec, err)
			continue
		}
		keyId := *created.Body.KeyMetadata.KeyId
		versions := require[*kms.ListKeyVersionsResponse](t)(
			client.ListKeyVersions(&kms.ListKeyVersionsRequest{KeyId: &keyId}))
		versionId := *versions.Body.KeyVersions.KeyVersion[0].KeyVersionId
		for _, alg := range hsm.Algorithms(spec) {
			if err := signAndVerify(c, keyId, versionId, alg); err != nil {
				t.Errorf("%s, %s: %v", spec, alg, err)
			}
		}
		env["KMSGATE_KEY_"+string(spec)], env["KMSGATE_KEYVERSION_"+string(spec)] = keyId, versionId
	}
	checkOffers(t, "token info", administer(t, env, "token", "info"), tok)
	testRestoreOnSameToken(t, dir, env, tok)
	administer(t, env, "audit", "head")
	if tok.remote != nil {
		testKillUnderLoad(t, env, tok.remote)
		testHang(t, env, tok.remote.Stop, tok.remote.Continue)
	}
}

// checkOffers checks that the output of a command lists each KeySpec, and whether the token offers
// it.
func checkOffers(t *testing.T, command, output string, tok otherToken) {
	t.Helper()
	for _, spec := range devgateway.KeySpecs {
		offered := regexp.MustCompile(`(?m)^` + string(spec) + ` +(yes|no)`).FindStringSubmatch(output)
		if offered == nil || (offered[1] == "yes") != contains(tok.offers, spec) {
			t.Errorf("kmsgate %s: got %q for %s, want offered: %v", command, offered, spec, contains(tok.offers, spec))
		}
	}
}

// testRestoreOnSameToken backs up the gateway in dir, and restores the backup to another directory
// with the same token. Every key must sign, and the doctor must find no problem with either
// gateway.
func testRestoreOnSameToken(t *testing.T, dir string, env map[string]string, tok otherToken) {
	t.Helper()
	backup, identity := filepath.Join(t.TempDir(), "backup.age"), filepath.Join(t.TempDir(), "key.txt")
	restored := filepath.Join(t.TempDir(), "restored")
	if err := os.WriteFile(identity, []byte(backupIdentity+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	administer(t, env, "backup", backup, "--recipient", backupRecipient)
	output := runOnToken(t, tok, "restore", backup, "--target", restored,
		"--identity", identity, "--audit-public-key", filepath.Join(dir, "audit-public-key.pem"))
	want := fmt.Sprintf("All %d versions of %[1]d keys signed. 1 access key and ", len(tok.offers))
	if !strings.Contains(output, want) {
		t.Errorf("kmsgate restore: got %q, want %q", output, want)
	}
	for _, target := range [][]string{
		{"--socket", env["KMSGATE_ADMIN_SOCKET"]},
		{"--config", filepath.Join(restored, "kmsgate.yaml")},
	} {
		output := runOnToken(t, tok, append([]string{"doctor", "--timeout", "2m"}, target...)...)
		if !strings.Contains(output, "No problems were found.") {
			t.Errorf("kmsgate doctor %s: want no problems, got:\n%s", strings.Join(target, " "), output)
		}
		checkOffers(t, "doctor", output, tok)
	}
}

// runOnToken runs a command in an environment in which it can open the token, and returns its
// standard output. The command must succeed.
func runOnToken(t *testing.T, tok otherToken, args ...string) string {
	t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Env = append(devgateway.Environment(), tok.environment...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		t.Fatalf("kmsgate %s: %v\n%s%s", strings.Join(args, " "), err, output, stderr.String())
	}
	return string(output)
}

func contains(specs []hsm.KeySpec, spec hsm.KeySpec) bool {
	for _, s := range specs {
		if s == spec {
			return true
		}
	}
	return false
}

// testKillUnderLoad kills the token's process three times while 32 callers sign, and starts it
// again. No call may fail.
func testKillUnderLoad(t *testing.T, env map[string]string, remote *rig.Remote) {
	t.Helper()
	l := startLoad(t, env, 32)
	for range 3 {
		before := l.count()
		waitFor(t, "signatures", func() bool { return l.count() > before+100 })
		remote.Kill()
		remote.Start()
	}
	before := l.count()
	waitFor(t, "signatures after the last start", func() bool { return l.count() > before+100 })
	l.end()
	if failures := l.failures(); failures != "" {
		t.Error(failures)
	}
}

// serveOn creates an instance in dir on a token and serves it until the test ends. It returns the
// environment of a program that uses the instance.
func serveOn(t *testing.T, dir string, tok otherToken) map[string]string {
	t.Helper()
	config := filepath.Join(dir, "kmsgate.yaml")
	text := fmt.Sprintf(`directory: %s
instance: {id: kst-other, region: cn-hangzhou, account: "1000000000000001"}
token: {module: %s, label: %q, pin_file: pin}
listeners: [{address: "127.0.99.%d:0"}]
`, dir, tok.module, tok.label, len(tok.offers))
	for name, content := range map[string]string{config: text, filepath.Join(dir, "pin"): tok.pin} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	initialize := exec.Command(binary, "init", "--config", config, "--yes")
	initialize.Env = append(devgateway.Environment(), tok.environment...)
	var stderr bytes.Buffer
	initialize.Stderr = &stderr
	printed, err := initialize.Output()
	if err != nil {
		t.Fatalf("kmsgate init: %v\n%s", err, stderr.String())
	}
	var access struct{ AccessKeyId, AccessKeySecret string }
	if err := json.Unmarshal(printed, &access); err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"KMSGATE_ENDPOINT":          startServe(t, config, tok.environment),
		"KMSGATE_CA_FILE":           filepath.Join(dir, "ca.pem"),
		"KMSGATE_ACCESS_KEY_ID":     access.AccessKeyId,
		"KMSGATE_ACCESS_KEY_SECRET": access.AccessKeySecret,
		"KMSGATE_ADMIN_SOCKET":      filepath.Join(dir, "admin", "admin.sock"),
	}
}

// startServe is like serve, but lets the gateway log errors, because its token may fail.
func startServe(t *testing.T, config string, environment []string) (address string) {
	t.Helper()
	cmd := exec.Command(binary, "serve", "--config", config)
	cmd.Env = append(devgateway.Environment(), environment...)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt) // Wait reports if the process has exited already
		if err := cmd.Wait(); err != nil {
			t.Errorf("kmsgate serve: %v", err)
		}
		if text, err := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("the log of kmsgate serve: %v\n%s", err, text)
		}
	})
	listeners := regexp.MustCompile(`listeners="?\[(.*?)\]`)
	waitFor(t, "kmsgate serve", func() bool {
		content, err := os.ReadFile(log.Name())
		m := listeners.FindSubmatch(content)
		if err == nil && m != nil {
			address = string(m[1])
		}
		return m != nil
	})
	return address
}
