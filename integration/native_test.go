package integration

import (
	"bytes"
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

// instanceConfig returns the configuration of a program's endpoint, CA and client key.
func instanceConfig(env map[string]string) *dkmsconfig.Config {
	return &dkmsconfig.Config{
		Endpoint: tea.String(env["KMSGATE_ENDPOINT"]), Protocol: tea.String("https"),
		CaFilePath:    tea.String(env["KMSGATE_CA_FILE"]),
		ClientKeyFile: tea.String(env["KMSGATE_CLIENT_KEY_FILE"]),
		Password:      tea.String(env["KMSGATE_CLIENT_KEY_PASSWORD"]),
	}
}

func newInstanceSDK(t *testing.T, env map[string]string) instanceSDK {
	t.Helper()
	return instanceSDK{require[*dkms.Client](t)(dkms.NewClient(instanceConfig(env)))}
}

const versionHeader = "x-kms-migrationkeyversionid"

// versionHeaders returns the headers that select a key version.
func versionHeaders(versionId string) map[string]*string {
	return map[string]*string{versionHeader: &versionId}
}

func (c instanceSDK) sign(keyId, versionId string, alg hsm.Algorithm, digest []byte) (string, string, []byte, error) {
	resp, err := c.Sign(&dkms.SignRequest{KeyId: &keyId, Algorithm: tea.String(string(alg)), Message: digest,
		MessageType: tea.String("DIGEST"), Headers: versionHeaders(versionId)})
	if err != nil {
		return "", "", nil, err
	}
	gotAlg, gotType := tea.StringValue(resp.Algorithm), tea.StringValue(resp.MessageType)
	if gotAlg != string(alg) || gotType != "DIGEST" {
		err = fmt.Errorf("got Algorithm %q and MessageType %q, want %q and DIGEST", gotAlg, gotType, alg)
	}
	return tea.StringValue(resp.KeyId), versionId, resp.Signature, err // the SDK does not return the version
}

func (c instanceSDK) verify(keyId, versionId string, alg hsm.Algorithm, digest, sig []byte) (bool, error) {
	resp, err := c.Verify(&dkms.VerifyRequest{KeyId: &keyId, Algorithm: tea.String(string(alg)), Message: digest,
		MessageType: tea.String("DIGEST"), Signature: sig, Headers: versionHeaders(versionId)})
	if err != nil {
		return false, err
	}
	return tea.BoolValue(resp.Value), nil
}

func (c instanceSDK) publicKey(keyId, versionId string) (string, error) {
	resp, err := c.GetPublicKey(&dkms.GetPublicKeyRequest{KeyId: &keyId, Headers: versionHeaders(versionId)})
	if err != nil {
		return "", err
	}
	return tea.StringValue(resp.PublicKey), nil
}

// transferSDK is github.com/aliyun/alibabacloud-dkms-transfer-go-sdk, which has the older SDK's
// functions and calls the native API.
type transferSDK struct {
	*transfer.KmsTransferClient
	endpoint string
}

func newTransferSDK(t *testing.T, env map[string]string) transferSDK {
	t.Helper()
	config := sdk.NewConfig().WithScheme("HTTPS").WithHttpTransport(trusting(t, env))
	accessKey := credentials.NewAccessKeyCredential(env["KMSGATE_ACCESS_KEY_ID"], env["KMSGATE_ACCESS_KEY_SECRET"])
	client := require[*transfer.KmsTransferClient](t)(
		transfer.NewClientWithOptions(env["KMSGATE_REGION_ID"], config, accessKey, instanceConfig(env)))
	ca := require[[]byte](t)(os.ReadFile(env["KMSGATE_CA_FILE"]))
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

// TestTransferSDK uses the transfer SDK as a program does. The SDK calls the native API for the
// operations that it has, and the RPC API of the same endpoint for the others. A request without a
// version must use the oldest one and return its ID.
func TestTransferSDK(t *testing.T) {
	g := start(t, t.TempDir()+"/gateway")
	c := newTransferSDK(t, g.Env)
	create := oldkms.CreateCreateKeyRequest()
	create.Domain, create.KeySpec = c.endpoint, "EC_P256"
	keyId := require[*oldkms.CreateKeyResponse](t)(c.CreateKey(create)).KeyMetadata.KeyId
	list := oldkms.CreateListKeyVersionsRequest()
	list.Domain, list.KeyId = c.endpoint, keyId
	listed := require[*oldkms.ListKeyVersionsResponse](t)(c.ListKeyVersions(list))
	oldest := listed.KeyVersions.KeyVersion[0].KeyVersionId
	add := oldkms.CreateCreateKeyVersionRequest()
	add.Domain, add.KeyId = c.endpoint, keyId
	newer := require[*oldkms.CreateKeyVersionResponse](t)(c.CreateKeyVersion(add)).KeyVersion.KeyVersionId
	digest := make([]byte, hsm.DigestSize)
	rand.Read(digest)
	for requested, want := range map[string]string{"": oldest, oldest: oldest, newer: newer} {
		keyOut, versionOut, sig, err := c.sign(keyId, requested, hsm.ECDSA_SHA_256, digest)
		if err != nil || keyOut != keyId || versionOut != want {
			t.Errorf("signing with version %q: got key %s, version %q, %v, want key %s, version %s",
				requested, keyOut, versionOut, err, keyId, want)
		}
		for _, version := range []string{oldest, newer} {
			ok, err := c.verify(keyId, version, hsm.ECDSA_SHA_256, digest, sig)
			if err != nil || ok != (version == want) {
				t.Errorf("verifying a signature of version %s with version %s: got %v, %v", want, version, ok, err)
			}
		}
	}
}

// TestRAW signs messages that the gateway hashes, for every KeySpec with each of its algorithms and
// without an algorithm. openssl verifies the signatures with the messages themselves.
func TestRAW(t *testing.T) {
	g := start(t, t.TempDir()+"/gateway")
	c := newInstanceSDK(t, g.Env)
	for size, name := range map[int]string{1: "one byte", 10_000: "many blocks"} {
		message := make([]byte, size)
		rand.Read(message)
		for _, spec := range devgateway.KeySpecs {
			for _, alg := range append(hsm.Algorithms(spec), "") {
				t.Run(fmt.Sprintf("%s/%s/%s", name, spec, alg), func(t *testing.T) {
					testRAW(t, c, g.Env["KMSGATE_KEY_"+string(spec)], alg, bytes.Clone(message))
				})
			}
		}
	}
}

// testRAW signs a message, then verifies the signature with openssl and the gateway. Both must
// refuse the signature after one bit of the message has changed.
func testRAW(t *testing.T, c instanceSDK, keyId string, alg hsm.Algorithm, message []byte) {
	public := require[*dkms.GetPublicKeyResponse](t)(c.GetPublicKey(&dkms.GetPublicKeyRequest{KeyId: &keyId}))
	signed := require[*dkms.SignResponse](t)(c.Sign(
		&dkms.SignRequest{KeyId: &keyId, Algorithm: tea.String(string(alg)), Message: message}))
	used := hsm.Algorithm(tea.StringValue(signed.Algorithm))
	if alg != "" && used != alg || tea.StringValue(signed.MessageType) != "RAW" {
		t.Errorf("got Algorithm %q and MessageType %q, want %q and RAW", used, tea.StringValue(signed.MessageType), alg)
	}
	for _, want := range []bool{true, false} {
		if got := opensslVerifies(t, tea.StringValue(public.PublicKey), used, message, signed.Signature); got != want {
			t.Errorf("openssl: got %v, want %v", got, want)
		}
		verified := require[*dkms.VerifyResponse](t)(c.Verify(&dkms.VerifyRequest{KeyId: &keyId, Message: message,
			Algorithm: signed.Algorithm, MessageType: tea.String("RAW"), Signature: signed.Signature}))
		if got := tea.BoolValue(verified.Value); got != want {
			t.Errorf("the gateway: got %v, want %v", got, want)
		}
		message[0] ^= 1
	}
}

// TestLargeRAW signs messages of nearly the maximum size. It uses only two keys, because the SDK
// takes a second for each million bytes.
func TestLargeRAW(t *testing.T) {
	g := start(t, t.TempDir()+"/gateway")
	c := newInstanceSDK(t, g.Env)
	message := make([]byte, 3<<20-1024)
	rand.Read(message)
	for spec, alg := range map[hsm.KeySpec]hsm.Algorithm{hsm.EC_SM2: hsm.SM2DSA, hsm.RSA_2048: hsm.RSA_PSS_SHA_256} {
		keyId := g.Env["KMSGATE_KEY_"+string(spec)]
		public := require[*dkms.GetPublicKeyResponse](t)(c.GetPublicKey(&dkms.GetPublicKeyRequest{KeyId: &keyId}))
		signed := require[*dkms.SignResponse](t)(c.Sign(&dkms.SignRequest{KeyId: &keyId, Message: message}))
		if !opensslVerifies(t, tea.StringValue(public.PublicKey), alg, message, signed.Signature) {
			t.Errorf("openssl refuses the signature of the %s key", spec)
		}
	}
}

// opensslVerifies reports whether openssl accepts a signature of a message, which it hashes.
func opensslVerifies(t *testing.T, public string, alg hsm.Algorithm, message, signature []byte) bool {
	t.Helper()
	dir := t.TempDir()
	files := map[string][]byte{"key.pem": []byte(public), "message": message, "signature": signature}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	args := map[hsm.Algorithm]string{
		hsm.RSA_PSS_SHA_256: "dgst -sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:32 " +
			"-verify key.pem -signature signature message",
		hsm.RSA_PKCS1_SHA_256: "dgst -sha256 -verify key.pem -signature signature message",
		hsm.ECDSA_SHA_256:     "dgst -sha256 -verify key.pem -signature signature message",
		hsm.SM2DSA: "pkeyutl -verify -pubin -inkey key.pem -rawin -in message -sigfile signature " +
			"-digest sm3 -pkeyopt distid:1234567812345678",
	}[alg]
	cmd := exec.Command("openssl", strings.Fields(args)...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	exit := (*exec.ExitError)(nil)
	if err != nil && !errors.As(err, &exit) || !strings.Contains(string(out), "erif") {
		t.Fatalf("openssl %s: %v: %s", args, err, out)
	}
	return err == nil
}

// TestRandomBytes checks that the token generates random bytes. The gateway must ask the token for
// each request, and must refuse the request if the token returns the same byte again and again.
func TestRandomBytes(t *testing.T) {
	g, f := startOnFaults(t)
	c := newInstanceSDK(t, g.Env)
	seen := make(map[string]bool)
	for _, n := range []int32{1024, 32, 32, 16} {
		random := require[*dkms.GenerateRandomResponse](t)(
			c.GenerateRandom(&dkms.GenerateRandomRequest{Length: &n})).Random
		if len(random) != int(n) || seen[string(random[:16])] {
			t.Errorf("GenerateRandom of %d bytes: got %x, want that many new bytes", n, random)
		}
		seen[string(random[:16])] = true
	}
	if n := f.Calls("C_GenerateRandom"); n != 4 {
		t.Errorf("got %d calls of C_GenerateRandom, want 4", n)
	}
	f.Fill("C_GenerateRandom", 7, 0, 1)
	_, err := c.GenerateRandom(&dkms.GenerateRandomRequest{Length: tea.Int32(16)})
	if got, _ := nativeErrorCode(t, err); got != "400 UnsupportedOperation" {
		t.Errorf("GenerateRandom of a token that is stuck: got %q (%v), want 400 UnsupportedOperation", got, err)
	}
}

// TestRequiredCertificates serves a listener that requires client certificates. The Instance SDK
// sends the certificate of its client key. The gateway must reject clients without a certificate,
// and client keys that were deleted.
func TestRequiredCertificates(t *testing.T) {
	g := start(t, t.TempDir()+"/gateway")
	env := g.Env
	config := reconfigure(t, g, "client_certificates: none", "client_certificates: required")
	env["KMSGATE_ENDPOINT"] = serve(t, config)
	random := func(c instanceSDK) error {
		_, err := c.GenerateRandom(&dkms.GenerateRandomRequest{Length: tea.Int32(16)})
		return err
	}
	c := newInstanceSDK(t, env)
	if err := random(c); err != nil {
		t.Errorf("GenerateRandom with a client key: %v", err)
	}
	request := require[*http.Request](t)(http.NewRequest("GET", "https://"+env["KMSGATE_ENDPOINT"]+"/", nil))
	_, err := trusting(t, env).RoundTrip(request)
	if err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("request without a certificate: got %v, want the TLS alert certificate required", err)
	}
	administer(t, env, "clientkey", "delete", "--yes", devClientKey(t, env))
	if err := random(c); err == nil {
		t.Error("GenerateRandom with a deleted client key: got no error")
	}
}

// devClientKey returns the ID of a dev gateway's client key.
func devClientKey(t *testing.T, env map[string]string) string {
	t.Helper()
	var file struct{ KeyId string }
	if err := json.Unmarshal(require[[]byte](t)(os.ReadFile(env["KMSGATE_CLIENT_KEY_FILE"])), &file); err != nil {
		t.Fatal(err)
	}
	return file.KeyId
}

// TestDevClientKey restarts a dev gateway after the loss of something that its client key needs.
// The gateway must create a new client key only if the old one cannot work any more, and the client
// key must work.
func TestDevClientKey(t *testing.T) {
	dir := t.TempDir() + "/gateway"
	for _, loss := range []struct {
		name   string
		newKey bool
		cause  func(g *devgateway.Gateway) error
	}{
		{"nothing", false, func(*devgateway.Gateway) error { return nil }},
		{"the file", true, func(g *devgateway.Gateway) error { return os.Remove(g.Env["KMSGATE_CLIENT_KEY_FILE"]) }},
		{"the password", true, func(*devgateway.Gateway) error { return os.Remove(dir + "/clientkey-password") }},
		{"the content", true, func(g *devgateway.Gateway) error {
			return os.Truncate(g.Env["KMSGATE_CLIENT_KEY_FILE"], 10)
		}},
		{"the record", true, func(g *devgateway.Gateway) error {
			administer(t, g.Env, "clientkey", "delete", "--yes", devClientKey(t, g.Env))
			return nil
		}},
		{"the permission policy", false, func(g *devgateway.Gateway) error {
			administer(t, g.Env, "aap", "permission", "delete", "--yes", "dev")
			return nil
		}},
		{"the access point", true, func(g *devgateway.Gateway) error {
			administer(t, g.Env, "aap", "delete", "--yes", "dev")
			return nil
		}},
	} {
		g := start(t, dir)
		before := devClientKey(t, g.Env)
		if err := errors.Join(loss.cause(g), g.Stop()); err != nil {
			t.Fatal(err)
		}
		g = start(t, dir)
		if after := devClientKey(t, g.Env); (after != before) != loss.newKey {
			t.Errorf("loss of %s: got client key %s, was %s, want a new key: %v", loss.name, after, before, loss.newKey)
		}
		c := newInstanceSDK(t, g.Env)
		if _, err := c.GenerateRandom(&dkms.GenerateRandomRequest{Length: tea.Int32(16)}); err != nil {
			t.Errorf("GenerateRandom after the loss of %s: %v", loss.name, err)
		}
		if err := g.Stop(); err != nil {
			t.Fatal(err)
		}
	}
}
