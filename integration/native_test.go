package integration

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alibabacloud-go/tea/tea"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/auth/credentials"
	oldkms "github.com/aliyun/alibaba-cloud-sdk-go/services/kms"
	dkmsconfig "github.com/aliyun/alibabacloud-dkms-gcs-go-sdk/openapi"
	dkms "github.com/aliyun/alibabacloud-dkms-gcs-go-sdk/sdk"
	transfer "github.com/aliyun/alibabacloud-dkms-transfer-go-sdk/sdk"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/integration/devgateway"
)

// instanceSDK is github.com/aliyun/alibabacloud-dkms-gcs-go-sdk, the KMS Instance SDK.
type instanceSDK struct{ *dkms.Client }

// instanceConfig is how a program names its endpoint, CA and client key.
func instanceConfig(env map[string]string) *dkmsconfig.Config {
	return &dkmsconfig.Config{
		Endpoint: tea.String(env["KMSGATE_ENDPOINT"]), Protocol: tea.String("https"), CaFilePath: tea.String(env["KMSGATE_CA_FILE"]),
		ClientKeyFile: tea.String(env["KMSGATE_CLIENT_KEY_FILE"]), Password: tea.String(env["KMSGATE_CLIENT_KEY_PASSWORD"]),
	}
}

func newInstanceSDK(t *testing.T, env map[string]string) instanceSDK {
	t.Helper()
	return instanceSDK{must[*dkms.Client](t)(dkms.NewClient(instanceConfig(env)))}
}

const versionHeader = "x-kms-migrationkeyversionid"

func ofVersion(versionId string) map[string]*string {
	return map[string]*string{versionHeader: &versionId}
}

func (c instanceSDK) sign(keyId, versionId string, alg hsm.Algorithm, digest []byte) (string, string, []byte, error) {
	resp, err := c.Sign(&dkms.SignRequest{KeyId: &keyId, Algorithm: tea.String(string(alg)), Message: digest, MessageType: tea.String("DIGEST"), Headers: ofVersion(versionId)})
	if err != nil {
		return "", "", nil, err
	}
	if tea.StringValue(resp.Algorithm) != string(alg) || tea.StringValue(resp.MessageType) != "DIGEST" {
		err = fmt.Errorf("the answer is of %s %s", tea.StringValue(resp.Algorithm), tea.StringValue(resp.MessageType))
	}
	return tea.StringValue(resp.KeyId), versionId, resp.Signature, err // the SDK does not show the version
}

func (c instanceSDK) verify(keyId, versionId string, alg hsm.Algorithm, digest, sig []byte) (bool, error) {
	resp, err := c.Verify(&dkms.VerifyRequest{KeyId: &keyId, Algorithm: tea.String(string(alg)), Message: digest, MessageType: tea.String("DIGEST"), Signature: sig, Headers: ofVersion(versionId)})
	if err != nil {
		return false, err
	}
	return tea.BoolValue(resp.Value), nil
}

func (c instanceSDK) publicKey(keyId, versionId string) (string, error) {
	resp, err := c.GetPublicKey(&dkms.GetPublicKeyRequest{KeyId: &keyId, Headers: ofVersion(versionId)})
	if err != nil {
		return "", err
	}
	return tea.StringValue(resp.PublicKey), nil
}

// transferSDK is github.com/aliyun/alibabacloud-dkms-transfer-go-sdk: the older SDK's
// functions, spoken natively.
type transferSDK struct {
	*transfer.KmsTransferClient
	endpoint string
}

func newTransferSDK(t *testing.T, env map[string]string) transferSDK {
	t.Helper()
	config := sdk.NewConfig().WithScheme("HTTPS").WithHttpTransport(trusting(t, env))
	client := must[*transfer.KmsTransferClient](t)(transfer.NewClientWithOptions(env["KMSGATE_REGION_ID"], config,
		credentials.NewAccessKeyCredential(env["KMSGATE_ACCESS_KEY_ID"], env["KMSGATE_ACCESS_KEY_SECRET"]), instanceConfig(env)))
	ca := must[[]byte](t)(os.ReadFile(env["KMSGATE_CA_FILE"]))
	client.SetVerify(string(ca))
	return transferSDK{client, env["KMSGATE_ENDPOINT"]}
}

func (c transferSDK) sign(keyId, versionId string, alg hsm.Algorithm, digest []byte) (string, string, []byte, error) {
	r := oldkms.CreateAsymmetricSignRequest()
	r.KeyId, r.KeyVersionId, r.Algorithm, r.Digest = keyId, versionId, string(alg), *b64(digest)
	resp, err := c.AsymmetricSign(r)
	if err != nil {
		return "", "", nil, err
	}
	sig, err := base64.StdEncoding.DecodeString(resp.Value)
	return resp.KeyId, resp.KeyVersionId, sig, err
}

func (c transferSDK) verify(keyId, versionId string, alg hsm.Algorithm, digest, sig []byte) (bool, error) {
	r := oldkms.CreateAsymmetricVerifyRequest()
	r.KeyId, r.KeyVersionId, r.Algorithm, r.Digest, r.Value = keyId, versionId, string(alg), *b64(digest), *b64(sig)
	resp, err := c.AsymmetricVerify(r)
	if err != nil {
		return false, err
	}
	return resp.Value, nil
}

func (c transferSDK) publicKey(keyId, versionId string) (string, error) {
	r := oldkms.CreateGetPublicKeyRequest()
	r.KeyId, r.KeyVersionId = keyId, versionId
	resp, err := c.GetPublicKey(r)
	if err != nil {
		return "", err
	}
	return resp.PublicKey, nil
}

// TestTransferSDK uses the transfer SDK as one program does: what the native API has
// goes there, and the rest to the RPC API of the same endpoint; a version that is not
// named is the oldest, and is told.
func TestTransferSDK(t *testing.T) {
	g := start(t, t.TempDir()+"/gateway")
	c := newTransferSDK(t, g.Env)
	create := oldkms.CreateCreateKeyRequest()
	create.Domain, create.KeySpec = c.endpoint, "EC_P256"
	made := must[*oldkms.CreateKeyResponse](t)(c.CreateKey(create))
	keyId := made.KeyMetadata.KeyId
	list := oldkms.CreateListKeyVersionsRequest()
	list.Domain, list.KeyId = c.endpoint, keyId
	oldest := must[*oldkms.ListKeyVersionsResponse](t)(c.ListKeyVersions(list)).KeyVersions.KeyVersion[0].KeyVersionId
	add := oldkms.CreateCreateKeyVersionRequest()
	add.Domain, add.KeyId = c.endpoint, keyId
	newer := must[*oldkms.CreateKeyVersionResponse](t)(c.CreateKeyVersion(add)).KeyVersion.KeyVersionId
	digest := make([]byte, hsm.DigestSize)
	rand.Read(digest)
	for asked, want := range map[string]string{"": oldest, oldest: oldest, newer: newer} {
		keyOut, versionOut, sig, err := c.sign(keyId, asked, hsm.ECDSA_SHA_256, digest)
		if err != nil || keyOut != keyId || versionOut != want {
			t.Errorf("asked for version %q: key %s, version %q, %v; want %s", asked, keyOut, versionOut, err, want)
		}
		for _, version := range []string{oldest, newer} {
			if ok, err := c.verify(keyId, version, hsm.ECDSA_SHA_256, digest, sig); err != nil || ok != (version == want) {
				t.Errorf("asked for version %q: version %s verifies: %v, %v", asked, version, ok, err)
			}
		}
	}
}

// TestRAW has messages hashed by the gateway, for every KeySpec with every algorithm
// and with none, and openssl judge the signatures of the messages themselves.
func TestRAW(t *testing.T) {
	g := start(t, t.TempDir()+"/gateway")
	c := newInstanceSDK(t, g.Env)
	for size, name := range map[int]string{1: "a byte", 10_000: "many blocks"} {
		text := make([]byte, size)
		rand.Read(text)
		for _, spec := range devgateway.KeySpecs {
			keyId := g.Env["KMSGATE_KEY_"+string(spec)]
			public := must[*dkms.GetPublicKeyResponse](t)(c.GetPublicKey(&dkms.GetPublicKeyRequest{KeyId: &keyId}))
			for _, alg := range append(hsm.Algorithms(spec), "") {
				signed, err := c.Sign(&dkms.SignRequest{KeyId: &keyId, Algorithm: tea.String(string(alg)), Message: text})
				if err != nil {
					t.Errorf("%s %s, %s: %v", spec, alg, name, err)
					continue
				}
				used := hsm.Algorithm(tea.StringValue(signed.Algorithm))
				if alg != "" && used != alg || tea.StringValue(signed.MessageType) != "RAW" {
					t.Errorf("%s %s: the answer is of %s %s", spec, alg, used, tea.StringValue(signed.MessageType))
				}
				for _, tampered := range []bool{false, true} {
					message := append([]byte{}, text...)
					if tampered {
						message[0] ^= 1
					}
					if ok := opensslVerifies(t, tea.StringValue(public.PublicKey), used, message, signed.Signature); ok == tampered {
						t.Errorf("%s %s, %s, tampered %v: openssl says %v", spec, alg, name, tampered, ok)
					}
					verified := must[*dkms.VerifyResponse](t)(c.Verify(&dkms.VerifyRequest{KeyId: &keyId, Algorithm: signed.Algorithm, Message: message, MessageType: tea.String("RAW"), Signature: signed.Signature}))
					if tea.BoolValue(verified.Value) == tampered {
						t.Errorf("%s %s, %s, tampered %v: the gateway says %v", spec, alg, name, tampered, tea.BoolValue(verified.Value))
					}
				}
			}
		}
	}
}

// TestLargeRAW is TestRAW for messages that are nearly as large as can be. Two of them
// are enough: the SDK looks at each byte for a second each million of them.
func TestLargeRAW(t *testing.T) {
	g := start(t, t.TempDir()+"/gateway")
	c := newInstanceSDK(t, g.Env)
	text := make([]byte, 3<<20-1024)
	rand.Read(text)
	for spec, alg := range map[hsm.KeySpec]hsm.Algorithm{hsm.EC_SM2: hsm.SM2DSA, hsm.RSA_2048: hsm.RSA_PSS_SHA_256} {
		keyId := g.Env["KMSGATE_KEY_"+string(spec)]
		public := must[*dkms.GetPublicKeyResponse](t)(c.GetPublicKey(&dkms.GetPublicKeyRequest{KeyId: &keyId}))
		signed := must[*dkms.SignResponse](t)(c.Sign(&dkms.SignRequest{KeyId: &keyId, Message: text}))
		if !opensslVerifies(t, tea.StringValue(public.PublicKey), alg, text, signed.Signature) {
			t.Errorf("%s: openssl says no", spec)
		}
	}
}

// opensslVerifies has openssl hash a message and judge its signature.
func opensslVerifies(t *testing.T, public string, alg hsm.Algorithm, message, signature []byte) bool {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string][]byte{"key.pem": []byte(public), "message": message, "signature": signature} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	args := map[hsm.Algorithm]string{
		hsm.RSA_PSS_SHA_256:   "dgst -sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:32 -verify key.pem -signature signature message",
		hsm.RSA_PKCS1_SHA_256: "dgst -sha256 -verify key.pem -signature signature message",
		hsm.ECDSA_SHA_256:     "dgst -sha256 -verify key.pem -signature signature message",
		hsm.SM2DSA:            "pkeyutl -verify -pubin -inkey key.pem -rawin -in message -sigfile signature -digest sm3 -pkeyopt distid:1234567812345678",
	}[alg]
	cmd := exec.Command("openssl", strings.Fields(args)...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) || !strings.Contains(string(out), "erif") {
		t.Fatalf("openssl %s: %v: %s", args, err, out)
	}
	return err == nil
}

// TestRandomBytes has random bytes made, and sees that the token makes them: it is
// asked each time, and when it makes the same byte without end there are none.
func TestRandomBytes(t *testing.T) {
	g, f := startOnFaults(t)
	c := newInstanceSDK(t, g.Env)
	seen := make(map[string]bool)
	for _, n := range []int32{1024, 32, 32, 16} {
		random := must[*dkms.GenerateRandomResponse](t)(c.GenerateRandom(&dkms.GenerateRandomRequest{Length: &n})).Random
		if len(random) != int(n) || seen[string(random[:16])] {
			t.Errorf("asked for %d bytes: %x", n, random)
		}
		seen[string(random[:16])] = true
	}
	if n := f.Calls("C_GenerateRandom"); n != 4 {
		t.Errorf("the token was asked %d times, want 4", n)
	}
	f.Fill("C_GenerateRandom", 7, 0, 1)
	_, err := c.GenerateRandom(&dkms.GenerateRandomRequest{Length: tea.Int32(16)})
	if got, _ := seenNatively(t, err); got != "400 UnsupportedOperation" {
		t.Errorf("with a generator that is stuck: %v", err)
	}
}

// TestRequiredCertificates serves programs with client keys only: the Instance SDK
// shows its key's certificate by itself, and nobody else is let in.
func TestRequiredCertificates(t *testing.T) {
	g := start(t, t.TempDir()+"/gateway")
	env := g.Env
	env["KMSGATE_ENDPOINT"] = serve(t, reconfigure(t, g, "client_certificates: none", "client_certificates: required"), env)
	random := func(c instanceSDK) error {
		_, err := c.GenerateRandom(&dkms.GenerateRandomRequest{Length: tea.Int32(16)})
		return err
	}
	c := newInstanceSDK(t, env)
	if err := random(c); err != nil {
		t.Error(err)
	}
	if _, err := trusting(t, env).RoundTrip(must[*http.Request](t)(http.NewRequest("GET", "https://"+env["KMSGATE_ENDPOINT"]+"/", nil))); err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("without a certificate: %v", err)
	}
	administer(t, env, "clientkey", "delete", devClientKey(t, env))
	if err := random(c); err == nil {
		t.Error("a client key that was deleted is taken")
	}
}

// devClientKey gives the id of a dev gateway's client key.
func devClientKey(t *testing.T, env map[string]string) string {
	t.Helper()
	var file struct{ KeyId string }
	if err := json.Unmarshal(must[[]byte](t)(os.ReadFile(env["KMSGATE_CLIENT_KEY_FILE"])), &file); err != nil {
		t.Fatal(err)
	}
	return file.KeyId
}

// TestDevClientKey starts a dev gateway on its directory again, each time after
// something that its client key needs was lost: there is another one that works, and
// only then.
func TestDevClientKey(t *testing.T) {
	dir := t.TempDir() + "/gateway"
	for _, lose := range []struct {
		what    string
		another bool
		do      func(g *devgateway.Gateway) error
	}{
		{"nothing", false, func(*devgateway.Gateway) error { return nil }},
		{"the file", true, func(g *devgateway.Gateway) error { return os.Remove(g.Env["KMSGATE_CLIENT_KEY_FILE"]) }},
		{"the password", true, func(*devgateway.Gateway) error { return os.Remove(dir + "/clientkey-password") }},
		{"the content", true, func(g *devgateway.Gateway) error { return os.Truncate(g.Env["KMSGATE_CLIENT_KEY_FILE"], 10) }},
		{"the record", true, func(g *devgateway.Gateway) error {
			administer(t, g.Env, "clientkey", "delete", devClientKey(t, g.Env))
			return nil
		}},
		{"the permission policy", false, func(g *devgateway.Gateway) error {
			administer(t, g.Env, "aap", "policy", "delete", "dev")
			return nil
		}},
		{"the access point", true, func(g *devgateway.Gateway) error {
			administer(t, g.Env, "aap", "delete", "dev")
			return nil
		}},
	} {
		g := start(t, dir)
		before := devClientKey(t, g.Env)
		if err := errors.Join(lose.do(g), g.Stop()); err != nil {
			t.Fatal(err)
		}
		g = start(t, dir)
		if after := devClientKey(t, g.Env); (after != before) != lose.another {
			t.Errorf("without %s: client key %s after %s", lose.what, after, before)
		}
		if _, err := newInstanceSDK(t, g.Env).GenerateRandom(&dkms.GenerateRandomRequest{Length: tea.Int32(16)}); err != nil {
			t.Errorf("without %s: %v", lose.what, err)
		}
		if err := g.Stop(); err != nil {
			t.Fatal(err)
		}
	}
}
