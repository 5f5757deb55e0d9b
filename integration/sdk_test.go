package integration

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	openapi "github.com/alibabacloud-go/darabonba-openapi/v2/client"
	kms "github.com/alibabacloud-go/kms-20160120/v3/client"
	util "github.com/alibabacloud-go/tea-utils/v2/service"
	"github.com/alibabacloud-go/tea/tea"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/auth/credentials"
	oldkms "github.com/aliyun/alibaba-cloud-sdk-go/services/kms"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/integration/devgateway"
)

// A signer is an SDK with the operations that a signing program needs.
type signer interface {
	// sign also returns the KeyId and the KeyVersionId of the response.
	sign(keyId, versionId string, alg hsm.Algorithm, digest []byte) (keyOut, versionOut string, sig []byte, err error)
	verify(keyId, versionId string, alg hsm.Algorithm, digest, sig []byte) (bool, error)
	publicKey(keyId, versionId string) (pem string, err error)
}

// newSDK is github.com/alibabacloud-go/kms-20160120/v3, in one of its modes.
type newSDK struct{ *kms.Client }

func b64(b []byte) *string { return tea.String(base64.StdEncoding.EncodeToString(b)) }

func (c newSDK) sign(keyId, versionId string, alg hsm.Algorithm, digest []byte) (string, string, []byte, error) {
	resp, err := c.AsymmetricSign(&kms.AsymmetricSignRequest{
		KeyId: &keyId, KeyVersionId: &versionId, Algorithm: tea.String(string(alg)), Digest: b64(digest),
	})
	if err != nil {
		return "", "", nil, err
	}
	sig, err := base64.StdEncoding.DecodeString(tea.StringValue(resp.Body.Value))
	return tea.StringValue(resp.Body.KeyId), tea.StringValue(resp.Body.KeyVersionId), sig, err
}

func (c newSDK) verify(keyId, versionId string, alg hsm.Algorithm, digest, sig []byte) (bool, error) {
	resp, err := c.AsymmetricVerify(&kms.AsymmetricVerifyRequest{
		KeyId: &keyId, KeyVersionId: &versionId, Algorithm: tea.String(string(alg)),
		Digest: b64(digest), Value: b64(sig),
	})
	if err != nil {
		return false, err
	}
	return tea.BoolValue(resp.Body.Value), nil
}

func (c newSDK) publicKey(keyId, versionId string) (string, error) {
	resp, err := c.GetPublicKey(&kms.GetPublicKeyRequest{KeyId: &keyId, KeyVersionId: &versionId})
	if err != nil {
		return "", err
	}
	return tea.StringValue(resp.Body.PublicKey), nil
}

// oldSDK is github.com/aliyun/alibaba-cloud-sdk-go.
type oldSDK struct {
	*oldkms.Client
	endpoint string
	format   string // JSON or XML
}

// trusting returns a transport that trusts the gateway's CA.
func trusting(t *testing.T, env map[string]string) *http.Transport {
	t.Helper()
	ca, err := os.ReadFile(env["KMSGATE_CA_FILE"])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
}

func newOldSDK(t *testing.T, env map[string]string) oldSDK {
	t.Helper()
	config := sdk.NewConfig().WithScheme("HTTPS").WithHttpTransport(trusting(t, env))
	client, err := oldkms.NewClientWithOptions(env["KMSGATE_REGION_ID"], config,
		credentials.NewAccessKeyCredential(env["KMSGATE_ACCESS_KEY_ID"], env["KMSGATE_ACCESS_KEY_SECRET"]))
	if err != nil {
		t.Fatal(err)
	}
	return oldSDK{client, env["KMSGATE_ENDPOINT"], "JSON"}
}

func (c oldSDK) sign(keyId, versionId string, alg hsm.Algorithm, digest []byte) (string, string, []byte, error) {
	r := oldkms.CreateAsymmetricSignRequest()
	r.AcceptFormat = c.format
	r.Domain, r.KeyId, r.KeyVersionId = c.endpoint, keyId, versionId
	r.Algorithm, r.Digest = string(alg), *b64(digest)
	resp, err := c.AsymmetricSign(r)
	if err != nil {
		return "", "", nil, err
	}
	sig, err := base64.StdEncoding.DecodeString(resp.Value)
	return resp.KeyId, resp.KeyVersionId, sig, err
}

func (c oldSDK) verify(keyId, versionId string, alg hsm.Algorithm, digest, sig []byte) (bool, error) {
	r := oldkms.CreateAsymmetricVerifyRequest()
	r.AcceptFormat = c.format
	r.Domain, r.KeyId, r.KeyVersionId = c.endpoint, keyId, versionId
	r.Algorithm, r.Digest, r.Value = string(alg), *b64(digest), *b64(sig)
	resp, err := c.AsymmetricVerify(r)
	if err != nil {
		return false, err
	}
	return resp.Value, nil
}

func (c oldSDK) publicKey(keyId, versionId string) (string, error) {
	r := oldkms.CreateGetPublicKeyRequest()
	r.AcceptFormat = c.format
	r.Domain, r.KeyId, r.KeyVersionId = c.endpoint, keyId, versionId
	resp, err := c.GetPublicKey(r)
	if err != nil {
		return "", err
	}
	return resp.PublicKey, nil
}

// signers returns a client of each SDK and of each mode of kms-20160120.
func signers(t *testing.T, env map[string]string) map[string]signer {
	t.Helper()
	inXML := newOldSDK(t, env)
	inXML.format = "XML"
	all := map[string]signer{
		"alibaba-cloud-sdk-go":      newOldSDK(t, env),
		"alibaba-cloud-sdk-go, XML": inXML,
		"dkms-gcs":                  newInstanceSDK(t, env),
		"dkms-transfer":             newTransferSDK(t, env),
	}
	for name, mode := range modes {
		all["kms-20160120, "+name] = newSDK{newContract(t, env, mode).Client}
	}
	return all
}

// TestSDKs signs with every SDK, KeySpec and Algorithm. openssl and every SDK verify each
// signature, and must refuse it after one bit of the digest has changed.
func TestSDKs(t *testing.T) {
	g := start(t, t.TempDir()+"/gateway")
	clients := signers(t, g.Env)
	for name, client := range clients {
		for _, spec := range devgateway.KeySpecs {
			keyId, versionId := g.Env["KMSGATE_KEY_"+string(spec)], g.Env["KMSGATE_KEYVERSION_"+string(spec)]
			alias := "alias/dev-" + strings.ToLower(strings.ReplaceAll(string(spec), "_", "-"))
			for _, alg := range hsm.Algorithms(spec) {
				t.Run(name+"/"+string(spec)+"/"+string(alg), func(t *testing.T) {
					digest := make([]byte, hsm.DigestSize)
					rand.Read(digest)
					keyOut, versionOut, sig, err := client.sign(alias, versionId, alg, digest)
					if err != nil {
						t.Fatal(err)
					}
					if keyOut != keyId || versionOut != versionId {
						t.Errorf("got key %s, version %s, want %s, %s", keyOut, versionOut, keyId, versionId)
					}
					pem, err := client.publicKey(keyId, versionId)
					if err != nil {
						t.Fatal(err)
					}
					verify := func(want bool) {
						t.Helper()
						ok, err := hsmtest.OpenSSLVerify(t.TempDir(), pem, alg, digest, sig)
						if err != nil || ok != want {
							t.Errorf("openssl: got %v, %v, want %v", ok, err, want)
						}
						for other, verifier := range clients {
							ok, err := verifier.verify(keyId, versionId, alg, digest, sig)
							if err != nil || ok != want {
								t.Errorf("verifying with %s: got %v, %v, want %v", other, ok, err, want)
							}
						}
					}
					verify(true)
					digest[0] ^= 1
					verify(false)
				})
			}
		}
	}
}

// TestConcurrentCallers signs and verifies from 64 goroutines with all keys.
func TestConcurrentCallers(t *testing.T) {
	g := start(t, t.TempDir()+"/gateway")
	specs := devgateway.KeySpecs
	errs := make(chan error, 64)
	var callers sync.WaitGroup
	for i := range cap(errs) {
		// The SDK's clients are not safe for concurrent use: GetRpcHeaders writes what it reads.
		client, err := devgateway.SDK(g.Env)
		if err != nil {
			t.Fatal(err)
		}
		c := newSDK{client}
		callers.Go(func() {
			spec := specs[i%len(specs)]
			keyId, versionId := g.Env["KMSGATE_KEY_"+string(spec)], g.Env["KMSGATE_KEYVERSION_"+string(spec)]
			for _, alg := range hsm.Algorithms(spec) {
				digest := make([]byte, hsm.DigestSize)
				rand.Read(digest)
				_, _, sig, err := c.sign(keyId, versionId, alg, digest)
				if err != nil {
					errs <- err
					continue
				}
				if ok, err := c.verify(keyId, versionId, alg, digest, sig); err != nil || !ok {
					errs <- errors.Join(errors.New("AsymmetricVerify refused a signature"), err)
				}
			}
		})
	}
	go func() {
		callers.Wait()
		close(errs)
	}()
	for err := range errs {
		t.Error(err)
	}
}

// TestKeyManagement creates a key with tags and an alias, and describes and lists it.
func TestKeyManagement(t *testing.T) {
	g := start(t, t.TempDir()+"/gateway")
	client, err := devgateway.SDK(g.Env)
	if err != nil {
		t.Fatal(err)
	}
	const description, alias = "a b*c+d~e=中'()!", "alias/a b~c*d+e=中'()!"
	created, err := client.CreateKey(&kms.CreateKeyRequest{
		KeySpec: tea.String("EC_P256"), Description: tea.String(description),
		DKMSInstanceId:          tea.String(g.Env["KMSGATE_INSTANCE_ID"]),
		EnableAutomaticRotation: tea.Bool(false), ProtectionLevel: tea.String("HSM"),
		Tags: tea.String(`[{"TagKey":"k","TagValue":"v"}]`),
	})
	if err != nil {
		t.Fatal(err)
	}
	keyId := created.Body.KeyMetadata.KeyId
	if _, err := client.CreateAlias(&kms.CreateAliasRequest{AliasName: tea.String(alias), KeyId: keyId}); err != nil {
		t.Fatal(err)
	}
	described, err := client.DescribeKey(&kms.DescribeKeyRequest{KeyId: tea.String(alias)})
	if err != nil {
		t.Fatal(err)
	}
	m := described.Body.KeyMetadata
	arn := fmt.Sprintf("acs:kms:%s:%s:key/%s", g.Env["KMSGATE_REGION_ID"], g.Env["KMSGATE_ACCOUNT_ID"], *keyId)
	if tea.StringValue(m.KeyId) != tea.StringValue(keyId) || tea.StringValue(m.Description) != description ||
		tea.StringValue(m.KeyState) != "Enabled" || tea.StringValue(m.Arn) != arn {
		t.Errorf("DescribeKey: got %v", m)
	}
	listed, err := client.ListKeys(&kms.ListKeysRequest{
		PageSize: tea.Int32(100), Filters: tea.String(`[{"Key":"TagKey","Values":["k"]}]`),
	})
	if err != nil {
		t.Fatal(err)
	}
	if keys := listed.Body.Keys.Key; len(keys) != 1 || tea.StringValue(keys[0].KeyId) != tea.StringValue(keyId) ||
		tea.Int32Value(listed.Body.TotalCount) != 1 {
		t.Errorf("ListKeys by tag: got %v, want only %s", listed.Body, tea.StringValue(keyId))
	}
	aliases, err := client.ListAliases(&kms.ListAliasesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if n := tea.Int32Value(aliases.Body.TotalCount); n != 6 || len(aliases.Body.Aliases.Alias) != 6 {
		t.Errorf("ListAliases: got TotalCount %d and %v, want 6 aliases", n, aliases.Body)
	}
	if _, err := client.DeleteAlias(&kms.DeleteAliasRequest{AliasName: tea.String(alias)}); err != nil {
		t.Fatal(err)
	}
}

// TestWaysToSend sends ACS3 requests with the SDK by GET, in a form, and in both.
func TestWaysToSend(t *testing.T) {
	g := start(t, t.TempDir()+"/gateway")
	client, err := devgateway.SDK(g.Env)
	if err != nil {
		t.Fatal(err)
	}
	keyId := g.Env["KMSGATE_KEY_EC_P256"]
	for name, tc := range map[string]struct {
		method  string
		request openapi.OpenApiRequest
	}{
		"GET": {"GET", openapi.OpenApiRequest{
			Query: map[string]*string{"KeyId": &keyId, "Unknown": tea.String("a b*c+d~e=中'()!")},
		}},
		"form": {"POST", openapi.OpenApiRequest{
			Body: map[string]any{"KeyId": keyId, "Unknown": "a b*c+d~e=中'()!"},
		}},
		"both": {"POST", openapi.OpenApiRequest{
			Query: map[string]*string{"KeyId": &keyId}, Body: map[string]any{"Unknown": "x"},
		}},
		"empty value": {"POST", openapi.OpenApiRequest{
			Query: map[string]*string{"KeyId": &keyId, "Unknown": tea.String("")},
		}},
	} {
		resp, err := client.CallApi(&openapi.Params{
			Action: tea.String("DescribeKey"), Version: tea.String("2016-01-20"), Protocol: tea.String("HTTPS"),
			Pathname: tea.String("/"), Method: &tc.method, AuthType: tea.String("AK"), Style: tea.String("RPC"),
			ReqBodyType: tea.String("formData"), BodyType: tea.String("json"),
		}, &tc.request, &util.RuntimeOptions{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if body := resp["body"].(map[string]any); body["KeyMetadata"].(map[string]any)["KeyId"] != keyId {
			t.Errorf("%s: got %v, want the metadata of key %s", name, body, keyId)
		}
	}
}

// newKey creates a key of KeySpec EC_P256, and returns the IDs of the key and of its version.
func newKey(client *kms.Client) (keyId, versionId string, err error) {
	created, err := client.CreateKey(&kms.CreateKeyRequest{KeySpec: tea.String("EC_P256")})
	if err != nil {
		return "", "", err
	}
	keyId = tea.StringValue(created.Body.KeyMetadata.KeyId)
	listed, err := client.ListKeyVersions(&kms.ListKeyVersionsRequest{KeyId: &keyId})
	if err != nil {
		return "", "", err
	}
	return keyId, tea.StringValue(listed.Body.KeyVersions.KeyVersion[0].KeyVersionId), nil
}

func countKeys(client *kms.Client) (int, error) {
	listed, err := client.ListKeys(&kms.ListKeysRequest{})
	if err != nil {
		return 0, err
	}
	return int(tea.Int32Value(listed.Body.TotalCount)), nil
}
