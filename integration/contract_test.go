package integration

import (
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	openapi "github.com/alibabacloud-go/darabonba-openapi/v2/client"
	kms "github.com/alibabacloud-go/kms-20160120/v3/client"
	"github.com/alibabacloud-go/tea/tea"
	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/integration/devgateway"
)

// The contract tests use only the public SDK client, and test one behaviour each. They run against
// a new dev gateway, or against the endpoint whose environment the file named by
// KMSGATE_CONTRACT_ENV exports. They create the keys that they use, and schedule them for deletion
// at the end.

// contractEnv returns the environment of the endpoint to test.
func contractEnv(t *testing.T) map[string]string {
	t.Helper()
	path := os.Getenv("KMSGATE_CONTRACT_ENV")
	if path == "" {
		return start(t, t.TempDir()+"/gateway").Env
	}
	env, err := devgateway.ReadEnv(path)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

// A contract is a client for the tests of one mode.
type contract struct {
	*kms.Client
	t   *testing.T
	env map[string]string
}

// modes are the signature methods that the SDK can use for its requests.
var modes = map[string]func(*openapi.Config){
	"ACS3-HMAC-SHA256":  func(*openapi.Config) {},
	"ACS3-HMAC-SM3":     func(c *openapi.Config) { c.SignatureAlgorithm = tea.String("ACS3-HMAC-SM3") },
	"ACS4-HMAC-SHA256":  func(c *openapi.Config) { c.SignatureVersion = tea.String("v4") },
	"signature version": func(c *openapi.Config) { c.SignatureAlgorithm = tea.String("v2") },
}

func newContract(t *testing.T, env map[string]string, mode func(*openapi.Config)) contract {
	t.Helper()
	ca, err := os.ReadFile(env["KMSGATE_CA_FILE"])
	if err != nil {
		t.Fatal(err)
	}
	config := &openapi.Config{
		Endpoint: tea.String(env["KMSGATE_ENDPOINT"]), Ca: tea.String(string(ca)),
		RegionId:        tea.String(env["KMSGATE_REGION_ID"]),
		AccessKeyId:     tea.String(env["KMSGATE_ACCESS_KEY_ID"]),
		AccessKeySecret: tea.String(env["KMSGATE_ACCESS_KEY_SECRET"]),
	}
	mode(config)
	client, err := kms.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	return contract{client, t, env}
}

// require returns a function that returns its first argument, or ends the test if there is an
// error.
func require[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// refused checks that err is an error of the API with the given code.
func (c contract) refused(code string, err error) {
	c.t.Helper()
	if got, _ := errorCode(c.t, err); !strings.HasSuffix(got, " "+code) {
		c.t.Errorf("got %q (%v), want %s", got, err, code)
	}
}

// newKey creates a key and returns the IDs of the key and of its version.
func (c contract) newKey(spec hsm.KeySpec) (keyId, versionId string) {
	c.t.Helper()
	created := require[*kms.CreateKeyResponse](c.t)(c.CreateKey(&kms.CreateKeyRequest{KeySpec: tea.String(string(spec))}))
	keyId = tea.StringValue(created.Body.KeyMetadata.KeyId)
	c.t.Cleanup(func() {
		// An error is no failure: a test may have scheduled the deletion already.
		_, _ = c.ScheduleKeyDeletion(
			&kms.ScheduleKeyDeletionRequest{KeyId: &keyId, PendingWindowInDays: tea.Int32(7)})
	})
	return keyId, c.versions(keyId)[0]
}

func (c contract) versions(keyId string) (ids []string) {
	c.t.Helper()
	listed := require[*kms.ListKeyVersionsResponse](c.t)(
		c.ListKeyVersions(&kms.ListKeyVersionsRequest{KeyId: &keyId, PageSize: tea.Int32(100)}))
	for _, v := range listed.Body.KeyVersions.KeyVersion {
		ids = append(ids, tea.StringValue(v.KeyVersionId))
	}
	return ids
}

func (c contract) state(keyId string) string {
	c.t.Helper()
	described := require[*kms.DescribeKeyResponse](c.t)(c.DescribeKey(&kms.DescribeKeyRequest{KeyId: &keyId}))
	return tea.StringValue(described.Body.KeyMetadata.KeyState)
}

// sign signs a random digest and verifies the signature with openssl. It returns the error of
// AsymmetricSign; any other problem fails the test.
func (c contract) sign(keyName, versionId string, alg hsm.Algorithm) error {
	c.t.Helper()
	digest := make([]byte, hsm.DigestSize)
	rand.Read(digest)
	s := newSDK{c.Client}
	keyId, _, sig, err := s.sign(keyName, versionId, alg, digest)
	if err != nil {
		return err
	}
	pemText := require[string](c.t)(s.publicKey(keyId, versionId))
	if ok, err := hsmtest.OpenSSLVerify(c.t.TempDir(), pemText, alg, digest, sig); err != nil || !ok {
		c.t.Errorf("openssl: got %v, %v, want a valid signature", ok, err)
	}
	return nil
}

func TestContract(t *testing.T) {
	env := contractEnv(t)
	for _, name := range slices.Sorted(maps.Keys(modes)) {
		t.Run(name, func(t *testing.T) {
			for _, behaviour := range behaviours {
				t.Run(behaviour.name, func(t *testing.T) { behaviour.test(newContract(t, env, modes[name])) })
			}
		})
	}
	t.Run("RSA_4096", func(t *testing.T) {
		c := newContract(t, env, modes["ACS3-HMAC-SHA256"])
		keyId, versionId := c.newKey(hsm.RSA_4096)
		for _, alg := range hsm.Algorithms(hsm.RSA_4096) {
			if err := c.sign(keyId, versionId, alg); err != nil {
				t.Errorf("signing with %s: %v", alg, err)
			}
		}
	})
}

var behaviours = []struct {
	name string
	test func(contract)
}{
	{"a new version and the old one sign", func(c contract) {
		keyId, first := c.newKey(hsm.EC_P256)
		created, err := c.CreateKeyVersion(&kms.CreateKeyVersionRequest{KeyId: &keyId})
		got, _ := errorCode(c.t, err)
		if os.Getenv("KMSGATE_CONTRACT_ENV") != "" && got == "400 Rejected.UnsupportedOperation" {
			c.t.Log("this endpoint requires an interval between versions")
			return
		}
		require[*kms.CreateKeyVersionResponse](c.t)(created, err)
		second := tea.StringValue(created.Body.KeyVersion.KeyVersionId)
		if got := c.versions(keyId); !slices.Contains(got, first) || !slices.Contains(got, second) || len(got) != 2 {
			c.t.Errorf("got versions %v, want %s and %s", got, first, second)
		}
		described := require[*kms.DescribeKeyVersionResponse](c.t)(
			c.DescribeKeyVersion(&kms.DescribeKeyVersionRequest{KeyId: &keyId, KeyVersionId: &second}))
		date := tea.StringValue(described.Body.KeyVersion.CreationDate)
		if _, err := time.Parse("2006-01-02T15:04:05Z", date); err != nil {
			c.t.Errorf("got CreationDate %q: %v", date, err)
		}
		for _, id := range []string{first, second} {
			if err := c.sign(keyId, id, hsm.ECDSA_SHA_256); err != nil {
				c.t.Errorf("signing with version %s: %v", id, err)
			}
		}
	}},
	{"a disabled key does not sign, an enabled one does", func(c contract) {
		keyId, versionId := c.newKey(hsm.EC_P256K)
		require[*kms.DisableKeyResponse](c.t)(c.DisableKey(&kms.DisableKeyRequest{KeyId: &keyId}))
		if got := c.state(keyId); got != "Disabled" {
			c.t.Errorf("got KeyState %s, want Disabled", got)
		}
		c.refused("Rejected.Disabled", c.sign(keyId, versionId, hsm.ECDSA_SHA_256))
		require[*kms.EnableKeyResponse](c.t)(c.EnableKey(&kms.EnableKeyRequest{KeyId: &keyId}))
		if err := c.sign(keyId, versionId, hsm.ECDSA_SHA_256); err != nil {
			c.t.Errorf("signing with the enabled key: %v", err)
		}
	}},
	{"a scheduled deletion can be cancelled", func(c contract) {
		keyId, versionId := c.newKey(hsm.EC_SM2)
		schedule := func(days int32) (*kms.ScheduleKeyDeletionResponse, error) {
			return c.ScheduleKeyDeletion(&kms.ScheduleKeyDeletionRequest{KeyId: &keyId, PendingWindowInDays: &days})
		}
		_, err := schedule(6)
		c.refused("InvalidParameter", err)
		require[*kms.ScheduleKeyDeletionResponse](c.t)(schedule(7))
		c.refused("Rejected.PendingDeletion", c.sign(keyId, versionId, hsm.SM2DSA))
		_, err = c.EnableKey(&kms.EnableKeyRequest{KeyId: &keyId})
		c.refused("Rejected.StateModifiedFailed", err)
		require[*kms.CancelKeyDeletionResponse](c.t)(c.CancelKeyDeletion(&kms.CancelKeyDeletionRequest{KeyId: &keyId}))
		if err := c.sign(keyId, versionId, hsm.SM2DSA); err != nil {
			c.t.Errorf("signing after CancelKeyDeletion: %v", err)
		}
	}},
	{"a protected key cannot be scheduled for deletion", func(c contract) {
		keyId, _ := c.newKey(hsm.EC_P256)
		arn := fmt.Sprintf("acs:kms:%s:%s:key/%s", c.env["KMSGATE_REGION_ID"], c.env["KMSGATE_ACCOUNT_ID"], keyId)
		protect := func(enable bool) {
			require[*kms.SetDeletionProtectionResponse](c.t)(c.SetDeletionProtection(
				&kms.SetDeletionProtectionRequest{ProtectedResourceArn: &arn, EnableDeletionProtection: &enable}))
		}
		protect(true)
		_, err := c.ScheduleKeyDeletion(
			&kms.ScheduleKeyDeletionRequest{KeyId: &keyId, PendingWindowInDays: tea.Int32(7)})
		c.refused("Rejected.StateModifiedFailed", err)
		described := require[*kms.DescribeKeyResponse](c.t)(c.DescribeKey(&kms.DescribeKeyRequest{KeyId: &keyId}))
		if got := tea.StringValue(described.Body.KeyMetadata.DeletionProtection); got != "Enabled" {
			c.t.Errorf("got DeletionProtection %s, want Enabled", got)
		}
		protect(false)
	}},
	{"a description can be changed, to anything", func(c contract) {
		keyId, _ := c.newKey(hsm.EC_P256)
		const text = "a b*c+d~e=中'()!&%\n\"<>"
		require[*kms.UpdateKeyDescriptionResponse](c.t)(c.UpdateKeyDescription(
			&kms.UpdateKeyDescriptionRequest{KeyId: &keyId, Description: tea.String(text)}))
		described := require[*kms.DescribeKeyResponse](c.t)(c.DescribeKey(&kms.DescribeKeyRequest{KeyId: &keyId}))
		if got := tea.StringValue(described.Body.KeyMetadata.Description); got != text {
			c.t.Errorf("got Description %q, want %q", got, text)
		}
	}},
	{"an alias signs for its key, and for another key after an update", func(c contract) {
		one, oneVersion := c.newKey(hsm.EC_P256)
		two, twoVersion := c.newKey(hsm.EC_P256)
		alias := "alias/a b~c*d+e=中'()! " + uuid.NewString()
		require[*kms.CreateAliasResponse](c.t)(c.CreateAlias(&kms.CreateAliasRequest{AliasName: &alias, KeyId: &one}))
		_, err := c.CreateAlias(&kms.CreateAliasRequest{AliasName: &alias, KeyId: &two})
		c.refused("AliasAlreadyExists", err)
		if err := c.sign(alias, oneVersion, hsm.ECDSA_SHA_256); err != nil {
			c.t.Errorf("signing with the alias: %v", err)
		}
		require[*kms.UpdateAliasResponse](c.t)(c.UpdateAlias(&kms.UpdateAliasRequest{AliasName: &alias, KeyId: &two}))
		if err := c.sign(alias, twoVersion, hsm.ECDSA_SHA_256); err != nil {
			c.t.Errorf("signing with the updated alias: %v", err)
		}
		c.refused("Forbidden.KeyVersionNotFound", c.sign(alias, oneVersion, hsm.ECDSA_SHA_256))
		listed := require[*kms.ListAliasesByKeyIdResponse](c.t)(
			c.ListAliasesByKeyId(&kms.ListAliasesByKeyIdRequest{KeyId: &two}))
		if got := listed.Body.Aliases.Alias; len(got) != 1 || tea.StringValue(got[0].AliasName) != alias {
			c.t.Errorf("got aliases %v, want only %q", got, alias)
		}
		require[*kms.DeleteAliasResponse](c.t)(c.DeleteAlias(&kms.DeleteAliasRequest{AliasName: &alias}))
		c.refused("Forbidden.AliasNotFound", c.sign(alias, twoVersion, hsm.ECDSA_SHA_256))
	}},
	{"keys are tagged, found by their tags and untagged", func(c contract) {
		keyId, _ := c.newKey(hsm.EC_P256)
		tag := uuid.NewString()
		region, keyType := tea.String(c.env["KMSGATE_REGION_ID"]), tea.String("key")
		tags := func() []*kms.ListResourceTagsResponseBodyTagsTag {
			return require[*kms.ListResourceTagsResponse](c.t)(
				c.ListResourceTags(&kms.ListResourceTagsRequest{KeyId: &keyId})).Body.Tags.Tag
		}
		require[*kms.TagResourceResponse](c.t)(c.TagResource(&kms.TagResourceRequest{
			KeyId: &keyId, Tags: tea.String(`[{"TagKey":"` + tag + `","TagValue":"a b"}]`),
		}))
		require[*kms.TagResourcesResponse](c.t)(c.TagResources(&kms.TagResourcesRequest{
			RegionId: region, ResourceType: keyType, ResourceId: []*string{&keyId},
			Tag: []*kms.TagResourcesRequestTag{{Key: tea.String("b"), Value: tea.String("*")}},
		}))
		if got := tags(); len(got) != 2 {
			c.t.Errorf("got tags %v, want 2", got)
		}
		found := require[*kms.ListKeysResponse](c.t)(c.ListKeys(
			&kms.ListKeysRequest{Filters: tea.String(`[{"Key":"TagKey","Values":["` + tag + `"]}]`)}))
		if keys := found.Body.Keys.Key; len(keys) != 1 || tea.StringValue(keys[0].KeyId) != keyId {
			c.t.Errorf("ListKeys by tag: got %v, want only %s", keys, keyId)
		}
		listed := require[*kms.ListTagResourcesResponse](c.t)(c.ListTagResources(&kms.ListTagResourcesRequest{
			RegionId: region, ResourceType: keyType, ResourceId: []*string{&keyId},
		}))
		if got := listed.Body.TagResources.TagResource; len(got) != 2 || tea.StringValue(got[0].ResourceId) != keyId {
			c.t.Errorf("ListTagResources: got %v, want two tags of %s", got, keyId)
		}
		require[*kms.UntagResourceResponse](c.t)(c.UntagResource(
			&kms.UntagResourceRequest{KeyId: &keyId, TagKeys: tea.String(`["b"]`)}))
		require[*kms.UntagResourcesResponse](c.t)(c.UntagResources(&kms.UntagResourcesRequest{
			RegionId: region, ResourceType: keyType, ResourceId: []*string{&keyId}, All: tea.Bool(true),
		}))
		if got := tags(); len(got) != 0 {
			c.t.Errorf("got tags %v after UntagResources, want none", got)
		}
	}},
	{"a key policy is stored", func(c contract) {
		keyId, _ := c.newKey(hsm.EC_P256)
		before := require[*kms.GetKeyPolicyResponse](c.t)(c.GetKeyPolicy(&kms.GetKeyPolicyRequest{KeyId: &keyId}))
		document := strings.Replace(tea.StringValue(before.Body.Policy), "kms default key policy", "mine", 1)
		require[*kms.SetKeyPolicyResponse](c.t)(c.SetKeyPolicy(
			&kms.SetKeyPolicyRequest{KeyId: &keyId, Policy: &document, PolicyName: tea.String("default")}))
		after := require[*kms.GetKeyPolicyResponse](c.t)(c.GetKeyPolicy(
			&kms.GetKeyPolicyRequest{KeyId: &keyId, PolicyName: tea.String("default")}))
		if got := tea.StringValue(after.Body.Policy); got != document {
			c.t.Errorf("got policy %s, want %s", got, document)
		}
		_, err := c.SetKeyPolicy(&kms.SetKeyPolicyRequest{KeyId: &keyId, Policy: tea.String("{}")})
		c.refused("InvalidParameter", err)
	}},
	{"the service describes itself", func(c contract) {
		regions := require[*kms.DescribeRegionsResponse](c.t)(c.DescribeRegions()).Body.Regions.Region
		if len(regions) != 1 || tea.StringValue(regions[0].RegionId) != c.env["KMSGATE_REGION_ID"] {
			c.t.Errorf("got regions %v, want only %s", regions, c.env["KMSGATE_REGION_ID"])
		}
		account := require[*kms.DescribeAccountKmsStatusResponse](c.t)(c.DescribeAccountKmsStatus()).Body
		if got := tea.StringValue(account.AccountStatus); got != "Enabled" {
			c.t.Errorf("got AccountStatus %s, want Enabled", got)
		}
		require[*kms.OpenKmsServiceResponse](c.t)(c.OpenKmsService())
		instances := require[*kms.ListKmsInstancesResponse](c.t)(
			c.ListKmsInstances(&kms.ListKmsInstancesRequest{})).Body.KmsInstances.KmsInstance
		if len(instances) != 1 || tea.StringValue(instances[0].KmsInstanceId) != c.env["KMSGATE_INSTANCE_ID"] {
			c.t.Errorf("got instances %v, want only %s", instances, c.env["KMSGATE_INSTANCE_ID"])
		}
		instance := require[*kms.GetKmsInstanceResponse](c.t)(c.GetKmsInstance(
			&kms.GetKmsInstanceRequest{KmsInstanceId: instances[0].KmsInstanceId})).Body.KmsInstance
		chain := tea.StringValue(instance.CaCertificateChainPem)
		if block, _ := pem.Decode([]byte(chain)); block == nil || block.Type != "CERTIFICATE" {
			c.t.Errorf("got CaCertificateChainPem %q, want a certificate", chain)
		}
	}},
	{"lists have pages", func(c contract) {
		c.newKey(hsm.EC_P256)
		c.newKey(hsm.EC_P256)
		second := require[*kms.ListKeysResponse](c.t)(c.ListKeys(
			&kms.ListKeysRequest{PageSize: tea.Int32(1), PageNumber: tea.Int32(2)})).Body
		if len(second.Keys.Key) != 1 || tea.Int32Value(second.PageNumber) != 2 ||
			tea.Int32Value(second.PageSize) != 1 || tea.Int32Value(second.TotalCount) < 2 {
			c.t.Errorf("got second page %v, want one key of at least 2", second)
		}
		_, err := c.ListKeys(&kms.ListKeysRequest{PageSize: tea.Int32(101)})
		c.refused("InvalidParameter", err)
	}},
	{"operations that are out of scope return UnsupportedOperation", func(c contract) {
		_, err := c.Encrypt(&kms.EncryptRequest{KeyId: tea.String("k"), Plaintext: tea.String("AAAA")})
		c.refused("UnsupportedOperation", err)
		_, err = c.GetSecretValue(&kms.GetSecretValueRequest{SecretName: tea.String("s")})
		c.refused("UnsupportedOperation", err)
		_, err = c.CreateKey(
			&kms.CreateKeyRequest{KeySpec: tea.String("RSA_2048"), KeyUsage: tea.String("ENCRYPT/DECRYPT")})
		c.refused("UnsupportedOperation", err)
	}},
}
