package gateway_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/gateway/nativepb"
)

// TestReasonOfDenial checks that the simulation and the audit line say so if a permission policy
// would permit the request from another address.
func TestReasonOfDenial(t *testing.T) {
	b := newBench(t)
	b.local("CreateNetworkRule", nil, "Name", "lan", "Type", "Private", "SourcePrivateIp", `["10.0.0.0/8"]`)
	b.local("CreatePolicy", nil, "Name", "none", "Permissions", keyUser, "Resources", `["key/none"]`)
	b.local("CreatePolicy", nil, "Name", "p", "Permissions", keyUser, "Resources", `["key/`+b.key.KeyId+`"]`, "AccessControlRules", `{"NetworkRules":["lan"]}`)
	b.local("CreateApplicationAccessPoint", nil, "Name", "app", "Policies", `["none","p"]`)
	const refusal = "no permission policy permits it"
	for _, tc := range []struct{ action, source, want string }{
		{"AsymmetricSign", "192.0.2.1", `permission policy "p" permits it only from other addresses`},
		{"AsymmetricSign", "", `permission policy "p" permits it only from certain addresses, but no address is given`},
		{"AsymmetricSign", "10.0.0.1", `allowed by permission policy "p"`},
		{"DescribeKey", "192.0.2.1", refusal},
	} {
		d := b.may("app", tc.source, tc.action, "KeyId", b.key.KeyId)
		if d.Reason != tc.want || d.Allowed != (d.PolicyName == "p") {
			t.Errorf("%s from %q: got %+v, want %s", tc.action, tc.source, d, tc.want)
		}
	}
	b.local("UpdatePolicy", nil, "Name", "none", "Resources", `["key/*"]`)
	if d := b.may("app", "192.0.2.1", "AsymmetricSign", "KeyId", b.key.KeyId); !d.Allowed || d.PolicyName != "none" {
		t.Errorf("another policy permits it: got %+v, want it allowed by \"none\"", d)
	}
	b.local("UpdatePolicy", nil, "Name", "none", "Resources", `["key/none"]`)
	a := b.newNativeClient("app").do("GetPublicKey", &nativepb.GetPublicKeyRequest{KeyId: b.key.KeyId}, nil)
	e, _ := b.auditLine(a.RequestId)
	if a.Code != "Forbidden.NoPermission" || strings.Contains(a.Message, "policy") ||
		!strings.Contains(e.Reason, `permission policy "p" permits it only from other addresses`) {
		t.Errorf("got answer %s %q and audit reason %q, want the policy only in the reason",
			a.Code, a.Message, e.Reason)
	}
	b.local("DeleteNetworkRule", nil, "Name", "lan")
	const want = `permission policy "p" permits it from no address: its network rules no longer exist`
	if d := b.may("app", "10.0.0.1", "AsymmetricSign", "KeyId", b.key.KeyId); d.Reason != want {
		t.Errorf("without the network rule: got %+v, want reason %s", d, want)
	}
}

// TestSimulateNatively checks that SimulatePolicy accepts the names that operations have in the
// instance SDK.
func TestSimulateNatively(t *testing.T) {
	b := newBench(t)
	b.local("CreatePolicy", nil, "Name", "p", "Permissions", keyUser, "Resources", `["key/*"]`)
	b.local("CreateApplicationAccessPoint", nil, "Name", "app", "Policies", `["p"]`)
	b.newUser("signer", document(allow("kms:AsymmetricSign", "*")))
	for action, want := range map[string][2]bool{"Sign": {true, true}, "kms:Sign": {true, true}, "Verify": {true, false}, "GetPublicKey": {true, false}} {
		var user struct{ Allowed bool }
		b.local("SimulatePolicy", &user, "UserName", "signer", "ActionName", action, "KeyId", b.key.KeyId)
		if d := b.may("app", "10.0.0.1", action, "KeyId", b.key.KeyId); d.Allowed != want[0] || user.Allowed != want[1] {
			t.Errorf("%s: got %+v for the access point, %+v for the user, want allowed %v", action, d, user, want)
		}
	}
	b.refused(400, "InvalidParameter", "SimulatePolicy", "UserName", "aap:app", "ActionName", "sign", "KeyId", b.key.KeyId)
}

// TestWhatIsNotFound checks that a caller with permission for a name learns from the message what
// does not exist.
func TestWhatIsNotFound(t *testing.T) {
	b := newBench(t)
	id := "KAAP." + uuid.NewString()
	for _, tc := range []struct{ action, parameter, value, want string }{
		{"DescribeNetworkRule", "Name", "x", `There is no network rule "x".`},
		{"UpdateNetworkRule", "Name", "x", `There is no network rule "x".`},
		{"DescribePolicy", "Name", "x", `There is no permission policy "x".`},
		{"DeletePolicy", "Name", "x", `There is no permission policy "x".`},
		{"DescribeApplicationAccessPoint", "Name", "x", `There is no access point "x".`},
		{"ListClientKeys", "AapName", "x", `There is no access point "x".`},
		{"GetClientKey", "ClientKeyId", id, `There is no client key "` + id + `".`},
		{"DeleteClientKey", "ClientKeyId", id, `There is no client key "` + id + `".`},
	} {
		a := b.want(b.do(b.root, tc.action, tc.parameter, tc.value), 404, "Forbidden.ResourceNotFound")
		if a.Message != "The resource is not found. "+tc.want {
			t.Errorf("%s: got message %q, want %q", tc.action, a.Message, tc.want)
		}
	}
	// The message quotes an invalid name, also one in a list, and truncates a long one.
	long := strings.Repeat("/", 300)
	for _, tc := range []struct{ action, parameter, value, want string }{
		{"CreateNetworkRule", "Name", "a b", `"a b" must have 1 to 64 of the characters A-Za-z0-9._@-`},
		{"UpdateApplicationAccessPoint", "Policies", `["x\n/"]`, `"x\n/" must have 1 to 64`},
		{"UpdatePolicy", "AccessControlRules", `{"NetworkRules":["` + long + `"]}`, `"` + long[:256] + `…" must have 1 to 64`},
	} {
		pairs := []string{tc.parameter, tc.value}
		if tc.parameter == "Name" {
			pairs = append(pairs, "Type", "Private", "SourcePrivateIp", `["::1"]`)
		} else {
			pairs = append(pairs, "Name", "x")
		}
		if a := b.want(b.do(b.root, tc.action, pairs...), 400, "InvalidParameter"); !strings.Contains(a.Message, tc.want) {
			t.Errorf("%s: got message %q, want %q", tc.action, a.Message, tc.want)
		}
	}
}
