package integration

import (
	"encoding/base64"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"

	kms "github.com/alibabacloud-go/kms-20160120/v3/client"
	"github.com/alibabacloud-go/tea/tea"
	"github.com/google/uuid"
)

const keyUser = `["RbacPermission/Template/CryptoServiceKeyUser"]`

// TestAccessPointContract creates, changes and deletes an access point and a client key with the
// SDK, which sends two of the operations by GET.
func TestAccessPointContract(t *testing.T) {
	env := contractEnv(t)
	for _, name := range slices.Sorted(maps.Keys(modes)) {
		t.Run(name, func(t *testing.T) {
			c := newContract(t, env, modes[name])
			app := c.accessPoint()
			pfx, clientKeyId := c.clientKey(app)
			openssl := exec.Command("openssl", "pkcs12", "-legacy", "-nodes", "-passin", "pass:password1")
			openssl.Stdin = strings.NewReader(pfx)
			if out, err := openssl.CombinedOutput(); err != nil || strings.Count(string(out), "-----BEGIN") != 2 {
				t.Errorf("openssl pkcs12: %v, want two PEM blocks, got:\n%s", err, out)
			}
			got := require[*kms.GetClientKeyResponse](t)(
				c.GetClientKey(&kms.GetClientKeyRequest{ClientKeyId: &clientKeyId}))
			list := require[*kms.ListClientKeysResponse](t)(
				c.ListClientKeys(&kms.ListClientKeysRequest{AapName: &app}))
			certificate := tea.StringValue(got.Body.PublicKeyData)
			if len(list.Body.ClientKeys) != 1 ||
				tea.StringValue(list.Body.ClientKeys[0].PublicKeyData) != certificate ||
				!strings.HasPrefix(certificate, "-----BEGIN CERTIFICATE-----\n") {
				t.Errorf("GetClientKey: got %v; ListClientKeys: got %v", got.Body, list.Body)
			}
			require[*kms.UpdatePolicyResponse](t)(
				c.UpdatePolicy(&kms.UpdatePolicyRequest{Name: &app, AccessControlRules: tea.String("{}")}))
			policy := require[*kms.DescribePolicyResponse](t)(c.DescribePolicy(&kms.DescribePolicyRequest{Name: &app}))
			if tea.StringValue(policy.Body.AccessControlRules) != `{"NetworkRules":[]}` ||
				len(policy.Body.Permissions) != 1 || tea.StringValue(policy.Body.Resources[0]) != "key/*" {
				t.Errorf("DescribePolicy: got %v", policy.Body)
			}
			require[*kms.UpdateNetworkRuleResponse](t)(c.UpdateNetworkRule(
				&kms.UpdateNetworkRuleRequest{Name: &app, Description: tea.String("new")}))
			require[*kms.UpdateApplicationAccessPointResponse](t)(c.UpdateApplicationAccessPoint(
				&kms.UpdateApplicationAccessPointRequest{Name: &app, Description: tea.String("new")}))
			c.deleteAccessPoint(app)
			_, err := c.GetClientKey(&kms.GetClientKeyRequest{ClientKeyId: &clientKeyId})
			c.refused("Forbidden.ResourceNotFound", err)
		})
	}
}

// accessPoint creates an access point, a permission policy and a network rule, all with the name
// that it returns.
func (c contract) accessPoint() (name string) {
	c.t.Helper()
	name = "app-" + uuid.NewString()
	require[*kms.CreateNetworkRuleResponse](c.t)(c.CreateNetworkRule(&kms.CreateNetworkRuleRequest{
		Name: &name, Type: tea.String("Private"), SourcePrivateIp: tea.String(`["192.168.1.1/24","10.0.0.1"]`),
	}))
	require[*kms.CreatePolicyResponse](c.t)(c.CreatePolicy(&kms.CreatePolicyRequest{
		Name: &name, Permissions: tea.String(keyUser), Resources: tea.String(`["key/*"]`),
		AccessControlRules: tea.String(`{"NetworkRules":["` + name + `"]}`),
	}))
	require[*kms.CreateApplicationAccessPointResponse](c.t)(c.CreateApplicationAccessPoint(
		&kms.CreateApplicationAccessPointRequest{Name: &name, Policies: tea.String(`["` + name + `"]`)}))
	return name
}

// clientKey creates a client key with the password password1. pfx is its PKCS#12 file.
func (c contract) clientKey(aapName string) (pfx, clientKeyId string) {
	c.t.Helper()
	created := require[*kms.CreateClientKeyResponse](c.t)(c.CreateClientKey(
		&kms.CreateClientKeyRequest{AapName: &aapName, Password: tea.String("password1")}))
	content, err := base64.StdEncoding.DecodeString(tea.StringValue(created.Body.PrivateKeyData))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(content), tea.StringValue(created.Body.ClientKeyId)
}

func (c contract) deleteAccessPoint(name string) {
	c.t.Helper()
	require[*kms.DeleteNetworkRuleResponse](c.t)(c.DeleteNetworkRule(&kms.DeleteNetworkRuleRequest{Name: &name}))
	require[*kms.DeletePolicyResponse](c.t)(c.DeletePolicy(&kms.DeletePolicyRequest{Name: &name}))
	require[*kms.DeleteApplicationAccessPointResponse](c.t)(c.DeleteApplicationAccessPoint(
		&kms.DeleteApplicationAccessPointRequest{Name: &name}))
}
