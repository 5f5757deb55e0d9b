package gateway_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kmsgate/kmsgate/store"
)

// may returns the decision on an action by a client key of an access point, from a source address.
// The pairs are a KeyId or a Name.
func (b *bench) may(aapName, source, action string, pairs ...string) (decision struct {
	Allowed            bool
	Reason, PolicyName string
	Statement          int
	Resource           string
}) {
	b.t.Helper()
	p := []string{"UserName", "aap:" + aapName, "ActionName", action, "SourceIp", source}
	b.local("SimulatePolicy", &decision, append(p, pairs...)...)
	return decision
}

// TestPermissions checks the decisions for client keys while the permission policies of their
// access point change. Every change takes effect with the next request.
func TestPermissions(t *testing.T) {
	b := newBench(t)
	other := b.newKey()
	own := b.key.KeyId
	ownKey := `["key/` + own + `"]`
	ownPrefix := `["key/` + own[:8] + `*"]`
	b.local("CreateNetworkRule", nil, "Name", "lan", "Type", "Private",
		"SourcePrivateIp", `["10.1.2.3/8","192.168.0.7","fd00::/8"]`)
	b.local("CreateNetworkRule", nil, "Name", "dmz", "Type", "Private", "SourcePrivateIp", `["172.16.0.0/12"]`)
	b.local("CreatePolicy", nil, "Name", "p", "Permissions", keyUser, "Resources", ownKey)
	b.local("CreatePolicy", nil, "Name", "q", "Permissions", secretUser, "Resources", `["key/*","secret/*"]`)
	b.local("CreateApplicationAccessPoint", nil, "Name", "app", "Policies", `["p"]`)
	change := func(action, name string, pairs ...string) func() {
		return func() { b.local(action, nil, append([]string{"Name", name}, pairs...)...) }
	}
	bothPermissions := keyUser[:len(keyUser)-1] + "," + secretUser[1:]
	for _, step := range []struct {
		name              string
		change            func()
		own, other        bool   // whether the bench's key and another key may be used
		admitted, refused string // source addresses, separated by spaces
	}{
		{"one key", func() {}, true, false, "10.0.0.1 127.0.0.1 2001:db8::1", ""},
		{"a prefix", change("UpdatePolicy", "p", "Resources", ownPrefix), true, false, "10.0.0.1", ""},
		{"all keys", change("UpdatePolicy", "p", "Resources", `["key/*"]`), true, true, "10.0.0.1", ""},
		{"secrets", change("UpdatePolicy", "p", "Resources", `["secret/*"]`), false, false, "10.0.0.1", ""},
		{"the prefix of another key", change("UpdatePolicy", "p", "Resources", `["key/`+other[:8]+`*","secret/a"]`),
			false, true, "10.0.0.1", ""},
		{"the permission to use secrets",
			change("UpdatePolicy", "p", "Permissions", secretUser, "Resources", `["key/*"]`),
			false, false, "10.0.0.1", ""},
		{"both permissions", change("UpdatePolicy", "p", "Permissions", bothPermissions),
			true, true, "10.0.0.1", ""},
		{"a rule", change("UpdatePolicy", "p", "AccessControlRules", `{"NetworkRules":["lan"]}`), true, true,
			"10.0.0.1 10.255.255.255 ::ffff:10.0.0.1 192.168.0.7 fd12::1",
			"11.0.0.1 192.168.0.8 127.0.0.1 ::1 172.16.0.1 fc00::1 0.0.0.0"},
		{"two rules", change("UpdatePolicy", "p", "AccessControlRules", `{"NetworkRules":["lan","dmz"]}`),
			true, true, "10.0.0.1 172.31.0.1", "11.0.0.1 172.32.0.1"},
		{"a changed rule", change("UpdateNetworkRule", "dmz", "SourcePrivateIp", `["172.20.0.1"]`),
			true, true, "10.0.0.1 172.20.0.1", "172.20.0.2 11.0.0.1"},
		{"one rule deleted", change("DeleteNetworkRule", "lan"), true, true, "172.20.0.1", "10.0.0.1 127.0.0.1"},
		{"both rules deleted", change("DeleteNetworkRule", "dmz"),
			false, false, "", "172.20.0.1 10.0.0.1 127.0.0.1"},
		{"the only rule deleted", func() {
			b.local("CreateNetworkRule", nil, "Name", "lan", "Type", "Private", "SourcePrivateIp", `["10.0.0.0/8"]`)
			b.local("UpdatePolicy", nil, "Name", "p", "AccessControlRules", `{"NetworkRules":["lan"]}`)
			b.local("DeleteNetworkRule", nil, "Name", "lan")
		}, false, false, "", "10.0.0.1 127.0.0.1"},
		{"no rules", change("UpdatePolicy", "p", "AccessControlRules", `{}`), true, true, "10.0.0.1", ""},
		{"another permission policy", change("UpdateApplicationAccessPoint", "app", "Policies", `["q"]`),
			false, false, "10.0.0.1", ""},
		{"both permission policies", change("UpdateApplicationAccessPoint", "app", "Policies", `["q","p"]`),
			true, true, "10.0.0.1", ""},
		{"the permission policy deleted", change("DeletePolicy", "p"), false, false, "10.0.0.1", ""},
		{"a new permission policy with its name",
			change("CreatePolicy", "p", "Permissions", keyUser, "Resources", ownKey),
			true, false, "10.0.0.1", ""},
	} {
		step.change()
		check := func(source, keyId string, want bool) {
			t.Helper()
			for _, action := range []string{"AsymmetricSign", "AsymmetricVerify", "GetPublicKey"} {
				d := b.may("app", source, action, "KeyId", keyId)
				if d.Allowed != want || want && (d.PolicyName != "p" || !strings.Contains(d.Reason, `policy "p"`)) {
					t.Errorf("%s: %s with key %.8s from %s: %+v, want Allowed %v, by policy \"p\" if true",
						step.name, action, keyId, source, d, want)
				}
			}
			for _, action := range []string{"DescribeKey", "DisableKey", "GetKeyPolicy", "ListKeyVersions"} {
				if d := b.may("app", source, action, "KeyId", keyId); d.Allowed {
					t.Errorf("%s: %s: %+v, want it denied", step.name, action, d)
				}
			}
		}
		for _, source := range strings.Fields(step.admitted) {
			check(source, own, step.own)
			check(source, "alias/test", step.own)
			check(source, other, step.other)
		}
		for _, source := range strings.Fields(step.refused) {
			check(source, own, false)
			check(source, other, false)
		}
	}
	for _, action := range []string{"CreateClientKey", "UpdatePolicy", "DescribeNetworkRule"} {
		if d := b.may("app", "10.0.0.1", action, "Name", "app"); d.Allowed {
			t.Errorf("%s: %+v, want it denied", action, d)
		}
	}
	b.refused(404, "Forbidden.ResourceNotFound", "SimulatePolicy",
		"UserName", "aap:none", "ActionName", "AsymmetricSign", "KeyId", own)
}

// TestPermissionForRandom checks that the permission to use keys includes GenerateRandom, which
// does not name a key.
func TestPermissionForRandom(t *testing.T) {
	b := newBench(t)
	b.accessPoint("app") // its network rule admits 10.0.0.0/8
	b.local("CreatePolicy", nil, "Name", "secrets", "Permissions", secretUser, "Resources", `["key/*"]`)
	b.local("CreateApplicationAccessPoint", nil, "Name", "other", "Policies", `["secrets"]`)
	for _, tc := range []struct {
		aapName, action, source string
		want                    bool
	}{
		{"app", "GenerateRandom", "10.0.0.1", true},
		{"app", "GenerateRandom", "11.0.0.1", false},
		{"app", "GenerateRandom", "", false}, // an unknown source
		{"app", "ListKeys", "10.0.0.1", false},
		{"app", "DescribeAccountKmsStatus", "10.0.0.1", false},
		{"other", "GenerateRandom", "10.0.0.1", false},
	} {
		if d := b.may(tc.aapName, tc.source, tc.action); d.Allowed != tc.want {
			t.Errorf("%s by %s from %q: %+v, want Allowed %v", tc.action, tc.aapName, tc.source, d, tc.want)
		}
	}
}

// TestTamperedPermissions checks that records that no operation would write permit nothing.
func TestTamperedPermissions(t *testing.T) {
	b := newBench(t)
	b.local("CreatePolicy", nil, "Name", "p", "Permissions", keyUser, "Resources", `["key/none"]`)
	b.local("CreateApplicationAccessPoint", nil, "Name", "app", "Policies", `["p"]`)
	p := store.PermissionPolicy{Name: "p", Permissions: []string{keyTemplate}}
	for _, resource := range []string{
		"key/?*", "key/*-*", "*", "key/" + b.key.KeyId[:35] + "?", "key/*,key/*", "", "key/" + b.key.KeyId[:30] + "**",
	} {
		p.Resources = []string{resource}
		tamper(b, p)
		if d := b.may("app", "10.0.0.1", "AsymmetricSign", "KeyId", b.key.KeyId); d.Allowed {
			t.Errorf("with the resource %q: %+v, want it denied", resource, d)
		}
	}
	p.Resources, p.NetworkRules = []string{"key/*"}, []string{"r"}
	tamper(b, p)
	for _, sources := range [][]string{nil, {}, {"0.0.0.0/99"}, {"*"}} {
		if err := b.db.Update(func(tx *store.Tx) error {
			return tx.NetworkRules().Put(store.NetworkRule{Name: "r", SourcePrivateIp: sources})
		}); err != nil {
			t.Fatal(err)
		}
		if d := b.may("app", "10.0.0.1", "AsymmetricSign", "KeyId", b.key.KeyId); d.Allowed {
			t.Errorf("with a rule for the sources %q: %+v, want it denied", sources, d)
		}
	}
}

// tamper writes a permission policy without any check.
func tamper(b *bench, p store.PermissionPolicy) {
	b.t.Helper()
	if err := b.db.Update(func(tx *store.Tx) error { return tx.PermissionPolicies().Put(p) }); err != nil {
		b.t.Fatal(err)
	}
}

// TestKeyPolicyOfAccessPoint checks that a key policy can deny client keys operations, but not
// allow them any. A statement for all users applies to client keys, too.
func TestKeyPolicyOfAccessPoint(t *testing.T) {
	b := newBench(t)
	b.local("CreatePolicy", nil, "Name", "p", "Permissions", keyUser, "Resources", `["key/`+b.key.KeyId+`"]`)
	b.local("CreateApplicationAccessPoint", nil, "Name", "app", "Policies", `["p"]`)
	b.local("CreatePolicy", nil, "Name", "none", "Permissions", keyUser, "Resources", `["key/none"]`)
	b.local("CreateApplicationAccessPoint", nil, "Name", "outsider", "Policies", `["none"]`)
	b.local("TagResource", nil, "KeyId", b.key.KeyId, "Tags", `[{"TagKey":"env","TagValue":"prod"}]`)
	withTag := func(statement, value string) string {
		return strings.TrimSuffix(statement, "}") + `,"Condition":{"StringEquals":{"kms:tag/env":"` + value + `"}}}`
	}
	denied := forKey("Deny", "*", "kms:AsymmetricSign")
	for _, tc := range []struct {
		name, policy string
		allowed      bool   // for app; outsider is never allowed anything
		decisive     string // the policy that decides
	}{
		{"Allow to all",
			document(forKey("Allow", "*", "kms:AsymmetricSign"), forKey("Allow", "*", "kms:Get*")), true, "p"},
		{"Deny to all", document(denied), false, "the key policy"},
		{"Deny and Allow", document(forKey("Allow", "*", "kms:*"), denied), false, "the key policy"},
		{"Deny of something else", document(forKey("Deny", "*", "kms:AsymmetricVerify")), true, "p"},
		{"Deny to a user of that name", document(forKey("Deny", "user/app", "kms:*")), true, "p"},
		{"Deny to root", document(forKey("Deny", "root", "kms:AsymmetricSign")), true, "p"},
		{"Deny to another account",
			strings.ReplaceAll(document(denied), "1000000000000001", "2000000000000002"), true, "p"},
		{"Deny with the key's tag", document(withTag(denied, "prod")), false, "the key policy"},
		{"Deny with another tag", document(withTag(denied, "dev")), true, "p"},
	} {
		b.local("SetKeyPolicy", nil, "KeyId", b.key.KeyId, "Policy", tc.policy)
		d := b.may("app", "10.0.0.1", "AsymmetricSign", "KeyId", b.key.KeyId)
		if d.Allowed != tc.allowed || d.PolicyName != tc.decisive {
			t.Errorf("%s: %+v, want Allowed %v by %q", tc.name, d, tc.allowed, tc.decisive)
		}
		for _, action := range []string{"AsymmetricSign", "GetPublicKey"} {
			if d := b.may("outsider", "10.0.0.1", action, "KeyId", b.key.KeyId); d.Allowed {
				t.Errorf("%s: %s by outsider: %+v, want it denied", tc.name, action, d)
			}
		}
	}
	b.setKey(func(k *store.Key) { k.Policy = "{}" }) // not a valid policy
	if d := b.may("app", "10.0.0.1", "AsymmetricSign", "KeyId", b.key.KeyId); d.Allowed {
		t.Errorf("with a broken key policy: %+v, want it denied", d)
	}
}

// TestManyRules checks decisions by a permission policy with the maximum number of network rules,
// all of maximum size.
func TestManyRules(t *testing.T) {
	b := newBench(t)
	p := store.PermissionPolicy{Name: "p", Permissions: []string{keyTemplate}}
	err := b.db.Update(func(tx *store.Tx) error {
		for i := range 100 {
			r := store.NetworkRule{Name: "r" + strings.Repeat("x", i)}
			for range 100 {
				r.SourcePrivateIp = append(r.SourcePrivateIp, "2001:0db8:1111:2222:3333:4444:5555:6666/128")
			}
			p.Resources = append(p.Resources, "key/"+strings.Repeat("x", 64))
			p.NetworkRules = append(p.NetworkRules, r.Name)
			if i == 99 {
				r.SourcePrivateIp[99] = "10.0.0.1"
				p.Resources[99] = "key/*"
			}
			if err := tx.NetworkRules().Put(r); err != nil {
				return err
			}
		}
		return tx.PermissionPolicies().Put(p)
	})
	if err != nil {
		t.Fatal(err)
	}
	b.local("CreateApplicationAccessPoint", nil, "Name", "app", "Policies", `["p"]`)
	for source, want := range map[string]bool{
		"10.0.0.1": true, "10.0.0.2": false, "2001:db8:1111:2222:3333:4444:5555:6666": true,
	} {
		if d := b.may("app", source, "AsymmetricSign", "KeyId", b.key.KeyId); d.Allowed != want {
			t.Errorf("from %s: %+v, want Allowed %v", source, d, want)
		}
	}
}

// TestAccessPointsRestart checks that a restart preserves access points, permission policies,
// network rules and client keys.
func TestAccessPointsRestart(t *testing.T) {
	b := newBench(t)
	b.accessPoint("app")
	id := b.clientKey("app")
	describe := func() (all []any) {
		for _, request := range [][]string{
			{"DescribeNetworkRule", "Name", "app"},
			{"DescribePolicy", "Name", "app"},
			{"DescribeApplicationAccessPoint", "Name", "app"},
			{"GetClientKey", "ClientKeyId", id},
		} {
			all = append(all, body(b.want(b.do(b.root, request[0], request[1:]...), 200, "")))
		}
		return append(all, b.may("app", "10.0.0.1", "AsymmetricSign", "KeyId", b.key.KeyId))
	}
	before := describe()
	b.stop()
	b.start()
	if diff := cmp.Diff(before, describe()); diff != "" {
		t.Errorf("after a restart (-want +got):\n%s", diff)
	}
}

// TestSimulateNamed simulates operations on resources that have a name.
func TestSimulateNamed(t *testing.T) {
	b := newBench(t)
	b.newUser("ops", document(
		allow("kms:*", account+"network/office"),
		allow("kms:*ClientKey*", account+"applicationaccesspoint/app"),
		allow("kms:List*", account+"policy")))
	for _, tc := range []struct {
		action, name string
		allowed      bool
		resource     string
	}{
		{"CreateNetworkRule", "office", true, "network/office"},
		{"DeleteNetworkRule", "home", false, "network/home"},
		{"UpdatePolicy", "office", false, "policy/office"},
		{"CreateClientKey", "app", true, "applicationaccesspoint/app"},
		{"GetClientKey", "other", false, "applicationaccesspoint/other"},
		{"ListClientKeys", "app", true, "applicationaccesspoint/app"},
		{"ListClientKeys", "", false, "applicationaccesspoint/*"},
		{"ListPolicies", "", true, "policy"},
		{"ListNetworkRules", "", false, "network"},
	} {
		var got struct {
			Allowed  bool
			Resource string
		}
		b.local("SimulatePolicy", &got, "UserName", "ops", "ActionName", tc.action, "Name", tc.name)
		if got.Allowed != tc.allowed || got.Resource != account+tc.resource {
			t.Errorf("%s %q: %+v, want Allowed %v on %s", tc.action, tc.name, got, tc.allowed, account+tc.resource)
		}
	}
	err := b.refused(400, "MissingParameter", "SimulatePolicy", "UserName", "ops", "ActionName", "CreateClientKey")
	if !strings.Contains(err.Message, `"Name"`) {
		t.Errorf("SimulatePolicy without Name: %v, want an error that names it", err)
	}
	b.refused(400, "InvalidParameter", "SimulatePolicy",
		"UserName", "ops", "ActionName", "CreateClientKey", "Name", "*")
}
