package integration

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	openapi "github.com/alibabacloud-go/darabonba-openapi/v2/client"
	kms "github.com/alibabacloud-go/kms-20160120/v3/client"
	util "github.com/alibabacloud-go/tea-utils/v2/service"
	"github.com/alibabacloud-go/tea/tea"
)

// TestMembers compares the responses of the operations that return data with the SDK's structs. No
// member may be missing or unknown, and each must have the declared type.
func TestMembers(t *testing.T) {
	g := start(t, t.TempDir()+"/gateway")
	c := newContract(t, g.Env, modes["ACS3-HMAC-SHA256"])
	keyId, version := g.Env["KMSGATE_KEY_EC_P256"], g.Env["KMSGATE_KEYVERSION_EC_P256"]
	instance, digest := g.Env["KMSGATE_INSTANCE_ID"], *b64(make([]byte, 32))
	tagged, _ := c.newKey("EC_P256")
	require[*kms.TagResourceResponse](t)(c.TagResource(
		&kms.TagResourceRequest{KeyId: &tagged, Tags: tea.String(`[{"TagKey":"k","TagValue":"v"}]`)}))
	app := c.accessPoint()
	_, clientKeyId := c.clientKey(app)
	keyVersion := []string{"KeyId", keyId, "KeyVersionId", version}
	sign := []string{"KeyId", keyId, "KeyVersionId", version, "Algorithm", "ECDSA_SHA_256", "Digest", digest}
	resource := []string{"RegionId", g.Env["KMSGATE_REGION_ID"], "ResourceType", "key", "ResourceId.1", tagged}
	rule := []string{"Name", "new", "Type", "Private", "SourcePrivateIp", `["::1"]`}
	policy := []string{"Name", "new", "Permissions", keyUser, "Resources", `["key/*"]`}
	clientKey := []string{"AapName", app, "Password", "password1"}
	accessPoint := []string{"Name", "new", "Policies", `["` + app + `"]`}
	for action, tc := range map[string]struct {
		body  any
		query []string
	}{
		"AsymmetricSign":           {kms.AsymmetricSignResponseBody{}, sign},
		"AsymmetricVerify":         {kms.AsymmetricVerifyResponseBody{}, append(slices.Clip(sign), "Value", "AAAA")},
		"GetPublicKey":             {kms.GetPublicKeyResponseBody{}, keyVersion},
		"CreateKey":                {kms.CreateKeyResponseBody{}, []string{"KeySpec", "EC_P256"}},
		"DescribeKey":              {kms.DescribeKeyResponseBody{}, []string{"KeyId", keyId}},
		"ListKeys":                 {kms.ListKeysResponseBody{}, nil},
		"CreateKeyVersion":         {kms.CreateKeyVersionResponseBody{}, []string{"KeyId", tagged}},
		"DescribeKeyVersion":       {kms.DescribeKeyVersionResponseBody{}, keyVersion},
		"ListKeyVersions":          {kms.ListKeyVersionsResponseBody{}, []string{"KeyId", keyId}},
		"ListAliases":              {kms.ListAliasesResponseBody{}, nil},
		"ListAliasesByKeyId":       {kms.ListAliasesByKeyIdResponseBody{}, []string{"KeyId", keyId}},
		"ListResourceTags":         {kms.ListResourceTagsResponseBody{}, []string{"KeyId", tagged}},
		"ListTagResources":         {kms.ListTagResourcesResponseBody{}, resource},
		"GetKeyPolicy":             {kms.GetKeyPolicyResponseBody{}, []string{"KeyId", keyId}},
		"DescribeRegions":          {kms.DescribeRegionsResponseBody{}, nil},
		"DescribeAccountKmsStatus": {kms.DescribeAccountKmsStatusResponseBody{}, nil},
		"GetKmsInstance":           {kms.GetKmsInstanceResponseBody{}, []string{"KmsInstanceId", instance}},
		"ListKmsInstances":         {kms.ListKmsInstancesResponseBody{}, nil},

		"CreateNetworkRule":              {kms.CreateNetworkRuleResponseBody{}, rule},
		"DescribeNetworkRule":            {kms.DescribeNetworkRuleResponseBody{}, []string{"Name", app}},
		"ListNetworkRules":               {kms.ListNetworkRulesResponseBody{}, nil},
		"CreatePolicy":                   {kms.CreatePolicyResponseBody{}, policy},
		"DescribePolicy":                 {kms.DescribePolicyResponseBody{}, []string{"Name", app}},
		"ListPolicies":                   {kms.ListPoliciesResponseBody{}, nil},
		"CreateApplicationAccessPoint":   {kms.CreateApplicationAccessPointResponseBody{}, accessPoint},
		"DescribeApplicationAccessPoint": {kms.DescribeApplicationAccessPointResponseBody{}, []string{"Name", app}},
		"ListApplicationAccessPoints":    {kms.ListApplicationAccessPointsResponseBody{}, nil},
		"CreateClientKey":                {kms.CreateClientKeyResponseBody{}, clientKey},
		"GetClientKey":                   {kms.GetClientKeyResponseBody{}, []string{"ClientKeyId", clientKeyId}},
		"ListClientKeys":                 {kms.ListClientKeysResponseBody{}, []string{"AapName", app}},
		"UpdateNetworkRule":              {kms.UpdateNetworkRuleResponseBody{}, []string{"Name", app}},

		"EnableKey": {kms.EnableKeyResponseBody{}, []string{"KeyId", keyId}},
	} {
		query := make(map[string]*string)
		for i := 0; i < len(tc.query); i += 2 {
			query[tc.query[i]] = &tc.query[i+1]
		}
		resp, err := c.CallApi(&openapi.Params{
			Action: tea.String(action), Version: tea.String("2016-01-20"), Protocol: tea.String("HTTPS"),
			Pathname: tea.String("/"), Method: tea.String("POST"), AuthType: tea.String("AK"),
			Style: tea.String("RPC"), ReqBodyType: tea.String("formData"), BodyType: tea.String("json"),
		}, &openapi.OpenApiRequest{Query: query}, &util.RuntimeOptions{})
		if err != nil {
			t.Errorf("%s: %v", action, err)
			continue
		}
		compareMembers(t, action, reflect.TypeOf(tc.body), resp["body"])
	}
}

// compareMembers compares a JSON value with the type that the SDK declares for it.
func compareMembers(t *testing.T, path string, declared reflect.Type, got any) {
	t.Helper()
	for declared.Kind() == reflect.Pointer {
		declared = declared.Elem()
	}
	switch declared.Kind() {
	case reflect.Struct:
		object, ok := got.(map[string]any)
		if !ok {
			t.Errorf("%s: got %T, want an object", path, got)
			return
		}
		members := maps.Clone(object)
		for i := range declared.NumField() {
			name, _, _ := strings.Cut(declared.Field(i).Tag.Get("json"), ",")
			value, ok := members[name]
			if !ok {
				t.Errorf("%s.%s is missing from the response", path, name)
				continue
			}
			delete(members, name)
			compareMembers(t, path+"."+name, declared.Field(i).Type, value)
		}
		if len(members) > 0 {
			t.Errorf("%s has the members %v, which the SDK does not declare", path, slices.Sorted(maps.Keys(members)))
		}
	case reflect.Slice:
		list, ok := got.([]any)
		if !ok {
			t.Errorf("%s: got %T, want a list", path, got)
		}
		for i, member := range list {
			compareMembers(t, fmt.Sprintf("%s[%d]", path, i), declared.Elem(), member)
		}
	default:
		want := map[reflect.Kind]string{
			reflect.String: "string", reflect.Bool: "bool", reflect.Int32: "json.Number", reflect.Int64: "json.Number",
		}[declared.Kind()]
		if typeOf := fmt.Sprintf("%T", got); typeOf != want {
			t.Errorf("%s: got %s, want %s for the declared %s", path, typeOf, want, declared.Kind())
		}
	}
}
