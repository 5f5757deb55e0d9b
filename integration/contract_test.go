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

// The contract tests speak through the public SDK client alone, one behaviour
// each. They run against a dev gateway of their own, or against any endpoint
// whose DIR/env is named by KMSGATE_CONTRACT_ENV. They make their own keys, and
// schedule them to be deleted in the end.

// contractEnv gives the endpoint to test and its credentials.
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

// A contract is a client, and what it has made.
type contract struct {
	*kms.Client
	t   *testing.T
	env map[string]string
}

// modes are the ways in which the SDK can sign.
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
		Endpoint: tea.String(env["KMSGATE_ENDPOINT"]), Ca: tea.String(string(ca)), RegionId: tea.String(env["KMSGATE_REGION_ID"]),
		AccessKeyId: tea.String(env["KMSGATE_ACCESS_KEY_ID"]), AccessKeySecret: tea.String(env["KMSGATE_ACCESS_KEY_SECRET"]),
	}
	mode(config)
	client, err := kms.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	return contract{client, t, env}
}

// must gives a result, or ends the test.
func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// refused checks that a call has failed with a code.
func (c contract) refused(code string, err error) {
	c.t.Helper()
	if got, _ := seen(c.t, err); !strings.HasSuffix(got, " "+code) {
		c.t.Errorf("%q (%v), want %s", got, err, code)
	}
}

func (c contract) newKey(spec hsm.KeySpec) (keyId, versionId string) {
	c.t.Helper()
	made := must[*kms.CreateKeyResponse](c.t)(c.CreateKey(&kms.CreateKeyRequest{KeySpec: tea.String(string(spec))}))
	keyId = tea.StringValue(made.Body.KeyMetadata.KeyId)
	c.t.Cleanup(func() {
		_, _ = c.ScheduleKeyDeletion(&kms.ScheduleKeyDeletionRequest{KeyId: &keyId, PendingWindowInDays: tea.Int32(7)}) // some are already
	})
	return keyId, c.versions(keyId)[0]
}

func (c contract) versions(keyId string) (ids []string) {
	c.t.Helper()
	listed := must[*kms.ListKeyVersionsResponse](c.t)(c.ListKeyVersions(&kms.ListKeyVersionsRequest{KeyId: &keyId, PageSize: tea.Int32(100)}))
	for _, v := range listed.Body.KeyVersions.KeyVersion {
		ids = append(ids, tea.StringValue(v.KeyVersionId))
	}
	return ids
}

func (c contract) state(keyId string) string {
	c.t.Helper()
	described := must[*kms.DescribeKeyResponse](c.t)(c.DescribeKey(&kms.DescribeKeyRequest{KeyId: &keyId}))
	return tea.StringValue(described.Body.KeyMetadata.KeyState)
}

// signs makes a signature and has openssl judge it.
func (c contract) signs(keyName, versionId string, alg hsm.Algorithm) error {
	c.t.Helper()
	digest := make([]byte, hsm.DigestSize)
	rand.Read(digest)
	s := newSDK{c.Client}
	keyId, _, sig, err := s.sign(keyName, versionId, alg, digest)
	if err != nil {
		return err
	}
	pemText := must[string](c.t)(s.publicKey(keyId, versionId))
	if ok, err := hsmtest.OpenSSLVerify(c.t.TempDir(), pemText, alg, digest, sig); err != nil || !ok {
		c.t.Errorf("openssl: %v, %v", ok, err)
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
			if err := c.signs(keyId, versionId, alg); err != nil {
				t.Errorf("%s: %v", alg, err)
			}
		}
	})
}

var behaviours = []struct {
	name string
	test func(contract)
}{
	{"a new version signs, and so does the old one", func(c contract) {
		keyId, first := c.newKey(hsm.EC_P256)
		made, err := c.CreateKeyVersion(&kms.CreateKeyVersionRequest{KeyId: &keyId})
		if got, _ := seen(c.t, err); os.Getenv("KMSGATE_CONTRACT_ENV") != "" && got == "400 Rejected.UnsupportedOperation" {
			c.t.Log("this endpoint has an interval between versions")
			return
		}
		must[*kms.CreateKeyVersionResponse](c.t)(made, err)
		second := tea.StringValue(made.Body.KeyVersion.KeyVersionId)
		if got := c.versions(keyId); !slices.Contains(got, first) || !slices.Contains(got, second) || len(got) != 2 {
			c.t.Errorf("versions %v, want %s and %s", got, first, second)
		}
		described := must[*kms.DescribeKeyVersionResponse](c.t)(c.DescribeKeyVersion(&kms.DescribeKeyVersionRequest{KeyId: &keyId, KeyVersionId: &second}))
		if _, err := time.Parse("2006-01-02T15:04:05Z", tea.StringValue(described.Body.KeyVersion.CreationDate)); err != nil {
			c.t.Error(err)
		}
		for _, id := range []string{first, second} {
			if err := c.signs(keyId, id, hsm.ECDSA_SHA_256); err != nil {
				c.t.Error(err)
			}
		}
	}},
	{"a disabled key does not sign, an enabled one does", func(c contract) {
		keyId, versionId := c.newKey(hsm.EC_P256K)
		must[*kms.DisableKeyResponse](c.t)(c.DisableKey(&kms.DisableKeyRequest{KeyId: &keyId}))
		if got := c.state(keyId); got != "Disabled" {
			c.t.Errorf("state %s", got)
		}
		c.refused("Rejected.Disabled", c.signs(keyId, versionId, hsm.ECDSA_SHA_256))
		must[*kms.EnableKeyResponse](c.t)(c.EnableKey(&kms.EnableKeyRequest{KeyId: &keyId}))
		if err := c.signs(keyId, versionId, hsm.ECDSA_SHA_256); err != nil {
			c.t.Error(err)
		}
	}},
	{"a scheduled deletion can be cancelled", func(c contract) {
		keyId, versionId := c.newKey(hsm.EC_SM2)
		_, err := c.ScheduleKeyDeletion(&kms.ScheduleKeyDeletionRequest{KeyId: &keyId, PendingWindowInDays: tea.Int32(6)})
		c.refused("InvalidParameter", err)
		must[*kms.ScheduleKeyDeletionResponse](c.t)(c.ScheduleKeyDeletion(&kms.ScheduleKeyDeletionRequest{KeyId: &keyId, PendingWindowInDays: tea.Int32(7)}))
		c.refused("Rejected.PendingDeletion", c.signs(keyId, versionId, hsm.SM2DSA))
		_, err = c.EnableKey(&kms.EnableKeyRequest{KeyId: &keyId})
		c.refused("Rejected.StateModifiedFailed", err)
		must[*kms.CancelKeyDeletionResponse](c.t)(c.CancelKeyDeletion(&kms.CancelKeyDeletionRequest{KeyId: &keyId}))
		if err := c.signs(keyId, versionId, hsm.SM2DSA); err != nil {
			c.t.Error(err)
		}
	}},
	{"a protected key cannot be scheduled to be deleted", func(c contract) {
		keyId, _ := c.newKey(hsm.EC_P256)
		arn := fmt.Sprintf("acs:kms:%s:%s:key/%s", c.env["KMSGATE_REGION_ID"], c.env["KMSGATE_ACCOUNT_ID"], keyId)
		protect := func(on bool) {
			must[*kms.SetDeletionProtectionResponse](c.t)(c.SetDeletionProtection(&kms.SetDeletionProtectionRequest{ProtectedResourceArn: &arn, EnableDeletionProtection: &on}))
		}
		protect(true)
		_, err := c.ScheduleKeyDeletion(&kms.ScheduleKeyDeletionRequest{KeyId: &keyId, PendingWindowInDays: tea.Int32(7)})
		c.refused("Rejected.StateModifiedFailed", err)
		described := must[*kms.DescribeKeyResponse](c.t)(c.DescribeKey(&kms.DescribeKeyRequest{KeyId: &keyId}))
		if got := tea.StringValue(described.Body.KeyMetadata.DeletionProtection); got != "Enabled" {
			c.t.Errorf("DeletionProtection %s", got)
		}
		protect(false)
	}},
	{"a description can be changed, to anything", func(c contract) {
		keyId, _ := c.newKey(hsm.EC_P256)
		const text = "a b*c+d~e=中'()!&%\n\"<>"
		must[*kms.UpdateKeyDescriptionResponse](c.t)(c.UpdateKeyDescription(&kms.UpdateKeyDescriptionRequest{KeyId: &keyId, Description: tea.String(text)}))
		described := must[*kms.DescribeKeyResponse](c.t)(c.DescribeKey(&kms.DescribeKeyRequest{KeyId: &keyId}))
		if got := tea.StringValue(described.Body.KeyMetadata.Description); got != text {
			c.t.Errorf("description %q", got)
		}
	}},
	{"an alias signs for its key, and for another when it is pointed there", func(c contract) {
		one, oneVersion := c.newKey(hsm.EC_P256)
		two, twoVersion := c.newKey(hsm.EC_P256)
		alias := "alias/a b~c*d+e=中'()! " + uuid.NewString()
		must[*kms.CreateAliasResponse](c.t)(c.CreateAlias(&kms.CreateAliasRequest{AliasName: &alias, KeyId: &one}))
		_, err := c.CreateAlias(&kms.CreateAliasRequest{AliasName: &alias, KeyId: &two})
		c.refused("AliasAlreadyExists", err)
		if err := c.signs(alias, oneVersion, hsm.ECDSA_SHA_256); err != nil {
			c.t.Error(err)
		}
		must[*kms.UpdateAliasResponse](c.t)(c.UpdateAlias(&kms.UpdateAliasRequest{AliasName: &alias, KeyId: &two}))
		if err := c.signs(alias, twoVersion, hsm.ECDSA_SHA_256); err != nil {
			c.t.Error(err)
		}
		c.refused("Forbidden.KeyVersionNotFound", c.signs(alias, oneVersion, hsm.ECDSA_SHA_256))
		listed := must[*kms.ListAliasesByKeyIdResponse](c.t)(c.ListAliasesByKeyId(&kms.ListAliasesByKeyIdRequest{KeyId: &two}))
		if got := listed.Body.Aliases.Alias; len(got) != 1 || tea.StringValue(got[0].AliasName) != alias {
			c.t.Errorf("aliases %v", got)
		}
		must[*kms.DeleteAliasResponse](c.t)(c.DeleteAlias(&kms.DeleteAliasRequest{AliasName: &alias}))
		c.refused("Forbidden.AliasNotFound", c.signs(alias, twoVersion, hsm.ECDSA_SHA_256))
	}},
	{"keys are tagged, found by their tags and untagged", func(c contract) {
		keyId, _ := c.newKey(hsm.EC_P256)
		tag := uuid.NewString()
		region, keyType := tea.String(c.env["KMSGATE_REGION_ID"]), tea.String("key")
		must[*kms.TagResourceResponse](c.t)(c.TagResource(&kms.TagResourceRequest{KeyId: &keyId, Tags: tea.String(`[{"TagKey":"` + tag + `","TagValue":"a b"}]`)}))
		must[*kms.TagResourcesResponse](c.t)(c.TagResources(&kms.TagResourcesRequest{RegionId: region, ResourceType: keyType, ResourceId: []*string{&keyId},
			Tag: []*kms.TagResourcesRequestTag{{Key: tea.String("b"), Value: tea.String("*")}}}))
		tags := must[*kms.ListResourceTagsResponse](c.t)(c.ListResourceTags(&kms.ListResourceTagsRequest{KeyId: &keyId})).Body.Tags.Tag
		if len(tags) != 2 {
			c.t.Errorf("tags %v", tags)
		}
		found := must[*kms.ListKeysResponse](c.t)(c.ListKeys(&kms.ListKeysRequest{Filters: tea.String(`[{"Key":"TagKey","Values":["` + tag + `"]}]`)}))
		if keys := found.Body.Keys.Key; len(keys) != 1 || tea.StringValue(keys[0].KeyId) != keyId {
			c.t.Errorf("found by tag: %v", keys)
		}
		listed := must[*kms.ListTagResourcesResponse](c.t)(c.ListTagResources(&kms.ListTagResourcesRequest{RegionId: region, ResourceType: keyType, ResourceId: []*string{&keyId}}))
		if got := listed.Body.TagResources.TagResource; len(got) != 2 || tea.StringValue(got[0].ResourceId) != keyId {
			c.t.Errorf("ListTagResources: %v", got)
		}
		must[*kms.UntagResourceResponse](c.t)(c.UntagResource(&kms.UntagResourceRequest{KeyId: &keyId, TagKeys: tea.String(`["b"]`)}))
		must[*kms.UntagResourcesResponse](c.t)(c.UntagResources(&kms.UntagResourcesRequest{RegionId: region, ResourceType: keyType, ResourceId: []*string{&keyId}, All: tea.Bool(true)}))
		if tags := must[*kms.ListResourceTagsResponse](c.t)(c.ListResourceTags(&kms.ListResourceTagsRequest{KeyId: &keyId})).Body.Tags.Tag; len(tags) != 0 {
			c.t.Errorf("tags that are left: %v", tags)
		}
	}},
	{"a key policy is kept", func(c contract) {
		keyId, _ := c.newKey(hsm.EC_P256)
		before := must[*kms.GetKeyPolicyResponse](c.t)(c.GetKeyPolicy(&kms.GetKeyPolicyRequest{KeyId: &keyId}))
		document := strings.Replace(tea.StringValue(before.Body.Policy), "kms default key policy", "mine", 1)
		must[*kms.SetKeyPolicyResponse](c.t)(c.SetKeyPolicy(&kms.SetKeyPolicyRequest{KeyId: &keyId, Policy: &document, PolicyName: tea.String("default")}))
		after := must[*kms.GetKeyPolicyResponse](c.t)(c.GetKeyPolicy(&kms.GetKeyPolicyRequest{KeyId: &keyId, PolicyName: tea.String("default")}))
		if got := tea.StringValue(after.Body.Policy); got != document {
			c.t.Errorf("policy %s", got)
		}
		_, err := c.SetKeyPolicy(&kms.SetKeyPolicyRequest{KeyId: &keyId, Policy: tea.String("{}")})
		c.refused("InvalidParameter", err)
	}},
	{"the service describes itself", func(c contract) {
		regions := must[*kms.DescribeRegionsResponse](c.t)(c.DescribeRegions()).Body.Regions.Region
		if len(regions) != 1 || tea.StringValue(regions[0].RegionId) != c.env["KMSGATE_REGION_ID"] {
			c.t.Errorf("regions %v", regions)
		}
		if got := tea.StringValue(must[*kms.DescribeAccountKmsStatusResponse](c.t)(c.DescribeAccountKmsStatus()).Body.AccountStatus); got != "Enabled" {
			c.t.Errorf("status %s", got)
		}
		must[*kms.OpenKmsServiceResponse](c.t)(c.OpenKmsService())
		instances := must[*kms.ListKmsInstancesResponse](c.t)(c.ListKmsInstances(&kms.ListKmsInstancesRequest{})).Body.KmsInstances.KmsInstance
		if len(instances) != 1 || tea.StringValue(instances[0].KmsInstanceId) != c.env["KMSGATE_INSTANCE_ID"] {
			c.t.Errorf("instances %v", instances)
		}
		instance := must[*kms.GetKmsInstanceResponse](c.t)(c.GetKmsInstance(&kms.GetKmsInstanceRequest{KmsInstanceId: instances[0].KmsInstanceId})).Body.KmsInstance
		if block, _ := pem.Decode([]byte(tea.StringValue(instance.CaCertificateChainPem))); block == nil || block.Type != "CERTIFICATE" {
			c.t.Errorf("CaCertificateChainPem %q", tea.StringValue(instance.CaCertificateChainPem))
		}
	}},
	{"lists have pages", func(c contract) {
		c.newKey(hsm.EC_P256)
		c.newKey(hsm.EC_P256)
		first := must[*kms.ListKeysResponse](c.t)(c.ListKeys(&kms.ListKeysRequest{PageSize: tea.Int32(1), PageNumber: tea.Int32(2)})).Body
		if len(first.Keys.Key) != 1 || tea.Int32Value(first.PageNumber) != 2 || tea.Int32Value(first.PageSize) != 1 || tea.Int32Value(first.TotalCount) < 2 {
			c.t.Errorf("the second page: %v", first)
		}
		_, err := c.ListKeys(&kms.ListKeysRequest{PageSize: tea.Int32(101)})
		c.refused("InvalidParameter", err)
	}},
	{"what is out of scope says so", func(c contract) {
		_, err := c.Encrypt(&kms.EncryptRequest{KeyId: tea.String("k"), Plaintext: tea.String("AAAA")})
		c.refused("UnsupportedOperation", err)
		_, err = c.GetSecretValue(&kms.GetSecretValueRequest{SecretName: tea.String("s")})
		c.refused("UnsupportedOperation", err)
		_, err = c.CreateKey(&kms.CreateKeyRequest{KeySpec: tea.String("RSA_2048"), KeyUsage: tea.String("ENCRYPT/DECRYPT")})
		c.refused("UnsupportedOperation", err)
	}},
}
