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

// An anotherToken is a token that is not SoftHSM in the gateway's own process.
type anotherToken struct {
	module, label, pin string
	environment        []string
	offers             []hsm.KeySpec
	remote             *rig.Remote // if it is in a process that can be killed
}

// anotherTokens set up the tokens that are held to what the README promises.
var anotherTokens = map[string]func(t *testing.T) anotherToken{
	"p11-kit": func(t *testing.T) anotherToken {
		soft, err := softhsm.Open(filepath.Join(t.TempDir(), "softhsm"), func(module, label, officerPIN, userPIN string) error {
			return token.Init(module, label, token.PIN(officerPIN), token.PIN(userPIN))
		})
		if err != nil {
			t.Fatal(err)
		}
		remote := rig.P11Kit(t, os.Getenv("SOFTHSM2_CONF"))
		return anotherToken{remote.Module, softhsm.Label, soft.PIN(), []string{remote.Environment},
			[]hsm.KeySpec{hsm.RSA_2048, hsm.RSA_3072, hsm.EC_P256, hsm.EC_P256K, hsm.EC_SM2}, remote}
	},
	"opencryptoki": func(t *testing.T) anotherToken {
		soft := rig.OpenCryptoki(t)
		return anotherToken{module: soft.Module, label: soft.Label, pin: soft.PIN, offers: []hsm.KeySpec{hsm.RSA_2048, hsm.RSA_3072, hsm.EC_SM2}}
	},
}

// TestOtherTokens makes an instance on each of the other tokens, by the
// configuration alone, and signs with every KeySpec that the token offers through
// the official SDK.
func TestOtherTokens(t *testing.T) {
	for name, setUp := range anotherTokens {
		t.Run(name, func(t *testing.T) { testOtherToken(t, setUp(t)) })
	}
}

func testOtherToken(t *testing.T, tok anotherToken) {
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
			if got, _ := seen(t, err); got != "400 UnsupportedOperation" || !strings.Contains(err.Error(), string(spec)) {
				t.Errorf("CreateKey of %s, which this token does not make: %v", spec, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("CreateKey of %s: %v", spec, err)
			continue
		}
		keyId := *created.Body.KeyMetadata.KeyId
		versions := must[*kms.ListKeyVersionsResponse](t)(client.ListKeyVersions(&kms.ListKeyVersionsRequest{KeyId: &keyId}))
		versionId := *versions.Body.KeyVersions.KeyVersion[0].KeyVersionId
		for _, alg := range hsm.Algorithms(spec) {
			if err := signsWell(c, keyId, versionId, alg); err != nil {
				t.Errorf("%s, %s: %v", spec, alg, err)
			}
		}
		env["KMSGATE_KEY_"+string(spec)], env["KMSGATE_KEYVERSION_"+string(spec)] = keyId, versionId
	}
	saysOffers(t, "token info", administer(t, env, "token", "info"), tok)
	restoredBeside(t, dir, env, tok)
	administer(t, env, "audit", "head")
	if tok.remote != nil {
		killUnderLoad(t, env, tok.remote)
		hangs(t, env, tok.remote.Stop, tok.remote.Continue)
	}
}

// saysOffers requires that a command lists each KeySpec, and which of them this token
// makes.
func saysOffers(t *testing.T, command, said string, tok anotherToken) {
	t.Helper()
	for _, spec := range devgateway.KeySpecs {
		offered := regexp.MustCompile(`(?m)^` + string(spec) + ` +(yes|no)`).FindStringSubmatch(said)
		if offered == nil || (offered[1] == "yes") != contains(tok.offers, spec) {
			t.Errorf("`kmsgate %s` says of %s: %q", command, spec, offered)
		}
	}
}

// restoredBeside restores a backup of the gateway in dir beside the token, where every
// key signs. The doctor finds no problem with either.
func restoredBeside(t *testing.T, dir string, env map[string]string, tok anotherToken) {
	t.Helper()
	backup, identity, restored := filepath.Join(t.TempDir(), "backup.age"), filepath.Join(t.TempDir(), "key.txt"), filepath.Join(t.TempDir(), "restored")
	if err := os.WriteFile(identity, []byte(backupIdentity+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	administer(t, env, "backup", backup, "--recipient", backupRecipient)
	said := besides(t, tok, "restore", backup, "--dir", restored, "--identity", identity, "--audit-public-key", filepath.Join(dir, "audit-public-key.pem"))
	if want := fmt.Sprintf("Keys that have signed: %d, with %[1]d versions. Access keys unsealed: 1.", len(tok.offers)); !strings.Contains(said, want) {
		t.Errorf("`kmsgate restore` says %q, want %q", said, want)
	}
	for _, of := range [][]string{{"--socket", env["KMSGATE_ADMIN_SOCKET"]}, {"--config", filepath.Join(restored, "kmsgate.yaml")}} {
		said := besides(t, tok, append([]string{"doctor"}, of...)...)
		if !strings.Contains(said, "No problems were found.") {
			t.Errorf("`kmsgate doctor %s` says:\n%s", strings.Join(of, " "), said)
		}
		saysOffers(t, "doctor", said, tok)
	}
}

// besides runs a command that may use the token itself, and has to succeed.
func besides(t *testing.T, tok anotherToken, args ...string) string {
	t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Env = append(devgateway.Environment(), tok.environment...)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	said, err := cmd.Output()
	if err != nil {
		t.Fatalf("kmsgate %s: %v\n%s%s", strings.Join(args, " "), err, said, complaints.String())
	}
	return string(said)
}

func contains(specs []hsm.KeySpec, spec hsm.KeySpec) bool {
	for _, s := range specs {
		if s == spec {
			return true
		}
	}
	return false
}

// killUnderLoad kills the token's process under 32 callers, and starts it again.
// No call may fail.
func killUnderLoad(t *testing.T, env map[string]string, remote *rig.Remote) {
	t.Helper()
	l := startLoad(t, env, 32)
	for range 3 {
		before := l.count()
		waitFor(t, "signatures", func() bool { return l.count() > before+100 })
		remote.Kill()
		remote.Start()
	}
	before := l.count()
	waitFor(t, "signatures in the end", func() bool { return l.count() > before+100 })
	l.end()
	if bad := l.bad(); bad != "" {
		t.Error(bad)
	}
}

// serveOn makes an instance in dir on a token and serves it until the test ends.
// It gives the environment of a program that uses it.
func serveOn(t *testing.T, dir string, tok anotherToken) map[string]string {
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
	var complaints bytes.Buffer
	initialize.Stderr = &complaints
	printed, err := initialize.Output()
	if err != nil {
		t.Fatalf("kmsgate init: %v\n%s", err, complaints.String())
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

// startServe is serve for a gateway whose token fails: it may log errors.
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
		_ = cmd.Process.Signal(os.Interrupt) // it may have ended, which Wait tells
		if err := cmd.Wait(); err != nil {
			t.Errorf("kmsgate serve: %v", err)
		}
		if text, err := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("kmsgate serve says: %v\n%s", err, text)
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
