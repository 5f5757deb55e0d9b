package gateway_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/store"
)

const (
	keyUser    = `["RbacPermission/Template/CryptoServiceKeyUser"]`
	secretUser = `["RbacPermission/Template/CryptoServiceSecretUser"]`
)

// accessPointOperations are the operations on access points, network rules, permission policies and
// client keys.
var accessPointOperations = []string{
	"CreateNetworkRule", "DescribeNetworkRule", "ListNetworkRules", "UpdateNetworkRule", "DeleteNetworkRule",
	"CreatePolicy", "DescribePolicy", "ListPolicies", "UpdatePolicy", "DeletePolicy",
	"CreateApplicationAccessPoint", "DescribeApplicationAccessPoint", "ListApplicationAccessPoints", "UpdateApplicationAccessPoint", "DeleteApplicationAccessPoint",
	"CreateClientKey", "GetClientKey", "ListClientKeys", "DeleteClientKey",
}

// accessPoint creates an access point, a permission policy for all keys and a network rule, all
// with one name.
func (b *bench) accessPoint(name string) {
	b.t.Helper()
	b.local("CreateNetworkRule", nil, "Name", name, "Type", "Private", "SourcePrivateIp", `["10.0.0.0/8"]`)
	b.local("CreatePolicy", nil, "Name", name, "Permissions", keyUser, "Resources", `["key/*"]`, "AccessControlRules", `{"NetworkRules":["`+name+`"]}`)
	b.local("CreateApplicationAccessPoint", nil, "Name", name, "Policies", `["`+name+`"]`)
}

// clientKey creates a client key and returns its id.
func (b *bench) clientKey(aapName string) string {
	b.t.Helper()
	var made struct{ ClientKeyId string }
	b.local("CreateClientKey", &made, "AapName", aapName, "Password", "password1")
	return made.ClientKeyId
}

// accessPointScenario creates everything that an operation on access points needs to succeed, and
// returns its parameters.
func (b *bench) accessPointScenario(action string) []string {
	b.t.Helper()
	old := "old-" + uuid.NewString()[:8]
	b.accessPoint(old)
	name, fresh := []string{"Name", old}, []string{"Name", "new-" + uuid.NewString()[:8]}
	if action == "GetClientKey" || action == "DeleteClientKey" {
		return []string{"ClientKeyId", b.clientKey(old)}
	}
	p, ok := map[string][]string{
		"CreateNetworkRule":            append(fresh, "Type", "Private", "SourcePrivateIp", `["192.168.1.1/24"]`),
		"UpdateNetworkRule":            append(name, "SourcePrivateIp", `["::1"]`, "Description", "new"),
		"CreatePolicy":                 append(fresh, "Permissions", keyUser, "Resources", `["key/*"]`, "AccessControlRules", `{"NetworkRules":["`+old+`"]}`),
		"UpdatePolicy":                 append(name, "Permissions", secretUser, "AccessControlRules", `{}`),
		"CreateApplicationAccessPoint": append(fresh, "Policies", `["`+old+`"]`, "AuthenticationMethod", "ClientKey"),
		"UpdateApplicationAccessPoint": append(name, "Description", "new"),
		"CreateClientKey":              {"AapName", old, "Password", "password1"},
		"ListClientKeys":               {},
	}[action]
	switch {
	case ok:
		return p
	case strings.HasPrefix(action, "List"):
		return []string{}
	}
	return name // Describe…, Delete…
}

// body returns the members of an answer except the RequestId.
func body(a answer) map[string]any {
	members := maps.Clone(a.Body)
	delete(members, "RequestId")
	return members
}

// shows calls an operation and compares the whole answer.
func (b *bench) shows(want map[string]any, action string, pairs ...string) {
	b.t.Helper()
	a := b.want(b.do(b.root, action, pairs...), 200, "")
	if diff := cmp.Diff(want, body(a)); diff != "" {
		b.t.Errorf("%s %q (- want, + answer): %s", action, pairs, diff)
	}
}

type object = map[string]any

// TestNetworkRules creates, reads, updates and deletes a network rule.
func TestNetworkRules(t *testing.T) {
	b := newBench(t)
	const sources = `["192.168.1.1/24","10.1.2.3","fd00::/8"]`
	rule := object{"Arn": account + "network/office", "Description": "d", "SourcePrivateIp": sources, "Type": "Private"}
	created := maps.Clone(rule)
	created["Name"] = "office"
	b.shows(created, "CreateNetworkRule", "Name", "office", "Type", "Private", "SourcePrivateIp", ` [ "192.168.1.1/24", "10.1.2.3","fd00::/8" ]`, "Description", "d")
	b.shows(rule, "DescribeNetworkRule", "Name", "office")
	b.want(b.do(b.root, "CreateNetworkRule", "Name", "office", "Type", "Private", "SourcePrivateIp", `["::1"]`),
		409, "Rejected.ResourceExist")
	b.want(b.do(b.root, "CreateNetworkRule", "Name", "office", "Type", "Private", "SourcePrivateIp", `["::1"]`, "DryRun", "true"), 400, "ValidationError")

	b.shows(object{}, "UpdateNetworkRule", "Name", "office") // changes nothing
	b.shows(rule, "DescribeNetworkRule", "Name", "office")
	b.shows(object{}, "UpdateNetworkRule", "Name", "office", "Description", "")
	rule["Description"] = ""
	b.shows(rule, "DescribeNetworkRule", "Name", "office")
	b.shows(object{}, "UpdateNetworkRule", "Name", "office", "SourcePrivateIp", `["::1"]`)
	rule["SourcePrivateIp"] = `["::1"]`
	b.shows(rule, "DescribeNetworkRule", "Name", "office")

	b.shows(object{}, "DeleteNetworkRule", "Name", "office")
	for _, action := range []string{"DescribeNetworkRule", "UpdateNetworkRule", "DeleteNetworkRule"} {
		b.want(b.do(b.root, action, "Name", "office"), 404, "Forbidden.ResourceNotFound")
	}
}

// TestPermissionPolicies creates, reads, updates and deletes a permission policy.
func TestPermissionPolicies(t *testing.T) {
	b := newBench(t)
	for _, name := range []string{"one", "two"} {
		b.local("CreateNetworkRule", nil, "Name", name, "Type", "Private", "SourcePrivateIp", `["::1"]`)
	}
	const both = `["RbacPermission/Template/CryptoServiceKeyUser","RbacPermission/Template/CryptoServiceSecretUser"]`
	p := object{"Name": "app", "Arn": account + "policy/app", "Description": "d", "KmsInstance": instance.InstanceId,
		"AccessControlRules": `{"NetworkRules":["one","two"]}`, "Permissions": both, "Resources": `["key/*","secret/acs/ram/user/a*"]`}
	b.shows(p, "CreatePolicy", "Name", "app", "Description", "d", "Permissions", both, "Resources", `["key/*","secret/acs/ram/user/a*"]`,
		"AccessControlRules", ` { "NetworkRules" : [ "one", "two" ] } `)
	p["Permissions"] = []any{"RbacPermission/Template/CryptoServiceKeyUser", "RbacPermission/Template/CryptoServiceSecretUser"}
	p["Resources"] = []any{"key/*", "secret/acs/ram/user/a*"}
	b.shows(p, "DescribePolicy", "Name", "app")
	b.want(b.do(b.root, "CreatePolicy", "Name", "app", "Permissions", both, "Resources", `["key/*"]`),
		409, "Rejected.ResourceExist")

	for _, step := range []struct {
		name, value string
		member      any
	}{
		{"Description", "", ""},
		{"Permissions", keyUser, []any{"RbacPermission/Template/CryptoServiceKeyUser"}},
		{"Resources", `["key/` + b.key.KeyId + `"]`, []any{"key/" + b.key.KeyId}},
		{"AccessControlRules", `{"NetworkRules":["two"]}`, `{"NetworkRules":["two"]}`},
		{"AccessControlRules", `{"NetworkRules":[]}`, `{"NetworkRules":[]}`},
		{"AccessControlRules", `{"NetworkRules":["two"]}`, `{"NetworkRules":["two"]}`},
		{"AccessControlRules", `{}`, `{"NetworkRules":[]}`},
	} {
		b.shows(object{}, "UpdatePolicy", "Name", "app", step.name, step.value)
		p[step.name] = step.member
		b.shows(p, "DescribePolicy", "Name", "app")
	}
	// If its network rules no longer exist, everything else of it can still be changed.
	b.local("UpdatePolicy", nil, "Name", "app", "AccessControlRules", `{"NetworkRules":["one"]}`)
	b.local("DeleteNetworkRule", nil, "Name", "one")
	b.shows(object{}, "UpdatePolicy", "Name", "app", "Description", "new")
	b.want(b.do(b.root, "UpdatePolicy", "Name", "app", "AccessControlRules", `{"NetworkRules":["one"]}`),
		400, "InvalidParameter")

	for _, value := range []string{instance.InstanceId, "shared"} {
		a := b.want(b.do(b.root, "CreatePolicy", "Name", value, "Permissions", keyUser, "Resources", `["key/*"]`, "KmsInstance", value), 200, "")
		if a.Body["KmsInstance"] != value || a.Body["AccessControlRules"] != `{"NetworkRules":[]}` {
			t.Errorf("CreatePolicy with KmsInstance %s: got %v, want that KmsInstance and no rules", value, a.Body)
		}
	}
	b.shows(object{}, "DeletePolicy", "Name", "app")
	for _, action := range []string{"DescribePolicy", "UpdatePolicy", "DeletePolicy"} {
		b.want(b.do(b.root, action, "Name", "app"), 404, "Forbidden.ResourceNotFound")
	}
}

// TestAccessPoints creates, reads, updates and deletes an access point. Its deletion must delete
// its client keys.
func TestAccessPoints(t *testing.T) {
	b := newBench(t)
	for _, name := range []string{"p1", "p2", "p3", "p4"} {
		b.local("CreatePolicy", nil, "Name", name, "Permissions", keyUser, "Resources", `["key/*"]`)
	}
	app := object{"Name": "app", "Arn": account + "applicationaccesspoint/app", "Description": "d", "AuthenticationMethod": "ClientKey", "Policies": `["p3","p1","p2"]`}
	b.shows(app, "CreateApplicationAccessPoint", "Name", "app", "Description", "d", "Policies", `["p3","p1","p2"]`)
	b.shows(app, "DescribeApplicationAccessPoint", "Name", "app")
	b.want(b.do(b.root, "CreateApplicationAccessPoint", "Name", "app", "Policies", `["p1"]`),
		409, "Rejected.ResourceExist")
	b.shows(object{}, "UpdateApplicationAccessPoint", "Name", "app", "Policies", `["p4"]`)
	app["Policies"] = `["p4"]`
	b.shows(app, "DescribeApplicationAccessPoint", "Name", "app")
	b.shows(object{}, "UpdateApplicationAccessPoint", "Name", "app", "Description", "")
	app["Description"] = ""
	b.shows(app, "DescribeApplicationAccessPoint", "Name", "app")

	b.accessPoint("other")
	gone, kept := b.clientKey("app"), b.clientKey("other")
	b.shows(object{}, "DeleteApplicationAccessPoint", "Name", "app")
	b.want(b.do(b.root, "GetClientKey", "ClientKeyId", gone), 404, "Forbidden.ResourceNotFound")
	b.want(b.do(b.root, "GetClientKey", "ClientKeyId", kept), 200, "")
	for _, action := range []string{"DescribeApplicationAccessPoint", "UpdateApplicationAccessPoint", "DeleteApplicationAccessPoint"} {
		b.want(b.do(b.root, action, "Name", "app"), 404, "Forbidden.ResourceNotFound")
	}
	b.want(b.do(b.root, "CreateClientKey", "AapName", "app", "Password", "password1"),
		404, "Forbidden.ResourceNotFound")
	b.want(b.do(b.root, "ListClientKeys", "AapName", "app"), 404, "Forbidden.ResourceNotFound")
}

// TestAccessPointLists checks the pages of lists, which have 20 members by default.
func TestAccessPointLists(t *testing.T) {
	b := newBench(t)
	var all []string
	for i := range 21 {
		all = append(all, fmt.Sprintf("n%02d", i))
		b.accessPoint(all[i])
	}
	for action, list := range map[string][2]string{
		"ListNetworkRules":            {"NetworkRules", "NetworkRule"},
		"ListPolicies":                {"Policies", "Policy"},
		"ListApplicationAccessPoints": {"ApplicationAccessPoints", "ApplicationAccessPoint"},
	} {
		for pageNumber, want := range map[string][]string{"1": all[:20], "2": all[20:], "3": nil} {
			a := b.want(b.do(b.root, action, "PageNumber", pageNumber), 200, "")
			if got := listed(t, a, list[0], list[1], "Name"); !slices.Equal(got, want) || a.Body["TotalCount"] != 21.0 || a.Body["PageSize"] != 20.0 {
				t.Errorf("%s, page %s: got %v, want %q", action, pageNumber, a.Body, want)
			}
		}
		a := b.want(b.do(b.root, action, "PageNumber", "2", "PageSize", "10"), 200, "")
		if got := listed(t, a, list[0], list[1], "Name"); !slices.Equal(got, all[10:20]) {
			t.Errorf("%s, second page of 10: got %v, want %v", action, got, all[10:20])
		}
	}
	b.want(b.do(b.root, "ListPolicies", "PageSize", "101"), 400, "InvalidParameter")
	b.want(b.do(b.root, "ListNetworkRules", "PageNumber", "0"), 400, "InvalidParameter")
}

// TestAccessPointParameters sends invalid parameters. Each message must name the parameter, and no
// record must change.
func TestAccessPointParameters(t *testing.T) {
	b := newBench(t)
	long := strings.Repeat("中", 8193)
	list := func(n int, format string) string {
		var members []string
		for i := range n {
			members = append(members, fmt.Sprintf(format, i))
		}
		return "[" + strings.Join(members, ",") + "]"
	}
	notLists := []string{"x", "null", "[]", "{}", `"10.0.0.1"`, "[null]", `[""]`, "[1]", `[["a"]]`, "[", `["a"`, `["a"]]`, `["a"] x`, "\xff", `["\ud800"]`,
		strings.Repeat("[", 50_000), list(101, `"10.0.0.%d"`)}
	values := map[string][]string{
		"SourcePrivateIp": append(notLists, `["10.0.0.0/33"]`, `["10.0.0"]`, `["010.0.0.1"]`, `["0.0.0.0/"]`, `["10.0.0.1-10.0.0.9"]`, `["fe80::1%eth0"]`, `["fe80::%eth0/64"]`,
			`["::ffff:10.0.0.1"]`, `["::ffff:0.0.0.0/90"]`, `["10.0.0.0/8 "]`, `["10.0.0.0/08"]`, `["localhost"]`, `["*"]`, `["10.0.0.1","10.0.0.1"]`, `["10.0.0.1/24","10.0.0.2/24"]`, `["10.0.0.1","10.0.0.1/32"]`),
		"Permissions": append(notLists, `["CryptoServiceKeyUser"]`, `["RbacPermission/Template/CryptoServiceKeyUser","RbacPermission/Template/CryptoServiceKeyUser"]`,
			`["RbacPermission/Template/*"]`, `["RbacPermission/Template/CryptoServiceKeyUser","RbacPermission/Template/CryptoServiceSecretUser","x"]`),
		"Resources": append(notLists, `["*"]`, `["key"]`, `["key/"]`, `["key/*-*"]`, `["key/**"]`, `["key/a?"]`, `["key/?*"]`, `["key/*a"]`, `["key/alias/x"]`, `["alias/x"]`, `["KEY/*"]`,
			`["key/*","key/*"]`, `["acs:kms:*:*:key/*"]`, `["key/a b"]`, `["key/a\n"]`, `["secret/"]`, `["secret/a?"]`, `["secret/*x"]`, `["key/`+strings.Repeat("a", 65)+`"]`, `["secret/`+strings.Repeat("a", 193)+`"]`),
		"AccessControlRules": {"x", "null", "[]", `["old"]`, `"{}"`, `{"NetworkRules":null}`, `{"NetworkRules":{}}`, `{"NetworkRules":"a"}`, `{"NetworkRules":[null]}`, `{"NetworkRules":[1]}`,
			`{"networkrules":[]}`, `{"NetworkRules":[],"NetworkRules":[]}`, `{"NetworkRules":[],"Other":1}`, `{"Other":[]}`, `{"NetworkRules":[]}}`, `{"NetworkRules":[]} {}`, `{`,
			`{"NetworkRules":["none"]}`, `{"NetworkRules":["*"]}`, `{"NetworkRules":[""]}`, `{"NetworkRules":` + list(101, `"n%d"`) + `}`, `{"NetworkRules":["a","a"]}`, `{"a":` + strings.Repeat("[", 20_000)},
		"Policies":             append(notLists, `["none"]`, `["*"]`, `["a","a"]`, `["a","b","c","d"]`, `["a/b"]`),
		"Type":                 {"private", "Public", "*"},
		"KmsInstance":          {"kst-other", "Shared", "*"},
		"AuthenticationMethod": {"clientkey", "Password"},
		"Description":          {long, "\xff", "a\x01b"},
		"PageSize":             {"0", "101", "x"},
		"Name":                 {"a b", "*", "a*", "a/b", "a:b", "a?", "..a/", "\n", "a\n", strings.Repeat("a", 65), "中"},
		"AapName":              {"a b", "*", strings.Repeat("a", 65), "a/b"},
		"ClientKeyId":          {strings.Repeat("a", 65), strings.Repeat("a", 100_000)},
	}
	for _, action := range accessPointOperations {
		p := params(b.scenario(action)...)
		for name, texts := range values {
			if _, has := p[name]; !has && !hasParameter(action, name) {
				continue
			}
			for _, text := range texts {
				before := b.records()
				changed := maps.Clone(p)
				changed[name] = text
				var pairs []string
				for name, value := range changed {
					pairs = append(pairs, name, value)
				}
				a := b.do(b.root, action, pairs...)
				if a.Status != 400 || a.Code != "InvalidParameter" || !strings.Contains(a.Message, `"`+name+`"`) || len(a.Message) > 1000 {
					t.Errorf("%s with %s %.40q: got %d %s %.1000q, want 400 InvalidParameter that names it",
						action, name, text, a.Status, a.Code, a.Message)
				}
				if b.records() != before {
					t.Errorf("%s with %s %.40q: the refused request changed records", action, name, text)
				}
			}
		}
	}
	for action, required := range map[string][]string{
		"CreateNetworkRule": {"Name", "Type", "SourcePrivateIp"}, "CreatePolicy": {"Name", "Permissions", "Resources"}, "CreateApplicationAccessPoint": {"Name", "Policies"},
		"CreateClientKey": {"AapName", "Password"}, "GetClientKey": {"ClientKeyId"}, "DeleteClientKey": {"ClientKeyId"}, "DescribePolicy": {"Name"}, "UpdatePolicy": {"Name"},
		"DeletePolicy": {"Name"}, "DescribeNetworkRule": {"Name"}, "UpdateNetworkRule": {"Name"}, "DeleteNetworkRule": {"Name"},
		"DescribeApplicationAccessPoint": {"Name"}, "UpdateApplicationAccessPoint": {"Name"}, "DeleteApplicationAccessPoint": {"Name"},
	} {
		for _, name := range required {
			p := b.scenario(action)
			p[slices.Index(p, name)+1] = ""
			b.want(b.do(b.root, action, p...), 400, "MissingParameter")
		}
	}
	// An empty value does not mean "unchanged" for a parameter that cannot be empty.
	for action, names := range map[string][]string{"UpdateNetworkRule": {"SourcePrivateIp"}, "UpdatePolicy": {"Permissions", "Resources", "AccessControlRules"}, "UpdateApplicationAccessPoint": {"Policies"}} {
		for _, name := range names {
			b.accessPoint("empty-" + action + name)
			b.want(b.do(b.root, action, "Name", "empty-"+action+name, name, ""), 400, "InvalidParameter")
		}
	}
}

// hasParameter reports whether an operation has a parameter that its scenario does not send.
func hasParameter(action, name string) bool {
	switch name {
	case "Description":
		return strings.HasPrefix(action, "Update") || strings.HasPrefix(action, "Create") && action != "CreateClientKey"
	case "PageSize":
		return strings.HasPrefix(action, "List") && action != "ListClientKeys"
	case "KmsInstance":
		return action == "CreatePolicy"
	case "Resources":
		return action == "UpdatePolicy"
	case "Policies":
		return action == "UpdateApplicationAccessPoint"
	case "AapName":
		return action == "ListClientKeys"
	}
	return false
}

// TestAccessPointLimits checks the limits on the numbers of records.
func TestAccessPointLimits(t *testing.T) {
	b := newBench(t)
	b.accessPoint("a")
	err := b.db.Update(func(tx *store.Tx) (err error) {
		for i := range 999 {
			name := fmt.Sprint("n", i)
			err = errors.Join(err, tx.NetworkRules().Put(store.NetworkRule{Name: name}), tx.PermissionPolicies().Put(store.PermissionPolicy{Name: name}), tx.AccessPoints().Put(store.ApplicationAccessPoint{Name: name}))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	// A busy machine must not take longer for one change than the store waits for the disk.
	changeClientKeys := func(first, last int, change func(tx *store.Tx, id string) error) {
		t.Helper()
		for ; first < last; first += 1000 {
			if err := b.db.Update(func(tx *store.Tx) (err error) {
				for i := first; i < first+1000; i++ {
					err = errors.Join(err, change(tx, fmt.Sprint("KAAP.", i)))
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	changeClientKeys(0, 10_000, func(tx *store.Tx, id string) error {
		return tx.ClientKeys().Put(store.ClientKey{ClientKeyId: id, AapName: "a"})
	})
	for action, p := range map[string][]string{
		"CreateNetworkRule":            {"Name", "x", "Type", "Private", "SourcePrivateIp", `["::1"]`},
		"CreatePolicy":                 {"Name", "x", "Permissions", keyUser, "Resources", `["key/*"]`},
		"CreateApplicationAccessPoint": {"Name", "x", "Policies", `["a"]`},
		"CreateClientKey":              {"AapName", "a", "Password", "password1"},
	} {
		b.want(b.do(b.root, action, p...), 400, "Rejected.LimitExceeded")
		b.want(b.do(b.root, action, append(p, "DryRun", "true")...), 400, "ValidationError")
	}
	changeClientKeys(0, 9000, func(tx *store.Tx, id string) error { return tx.ClientKeys().Delete(id) })
	b.want(b.do(b.root, "DeleteApplicationAccessPoint", "Name", "a"), 200, "")
	b.want(b.do(b.root, "ListClientKeys"), 200, "")
	b.want(b.do(b.root, "CreateApplicationAccessPoint", "Name", "a", "Policies", `["a"]`), 200, "")
	b.clientKey("a")
}

// TestAccessPointsHidden checks that a caller without a permission for a name cannot learn whether
// something has it, or whether a client key exists.
func TestAccessPointsHidden(t *testing.T) {
	b := newBench(t)
	b.accessPoint("mine")
	b.accessPoint("other")
	mine, other := b.clientKey("mine"), b.clientKey("other")
	var statements []string
	for _, kind := range []string{"network", "policy", "applicationaccesspoint"} {
		statements = append(statements, allow("kms:*", account+kind+"/mine"))
	}
	c := b.newUser("nosy", document(statements...))
	for _, action := range accessPointOperations {
		if strings.HasPrefix(action, "Create") || strings.HasPrefix(action, "List") || strings.HasSuffix(action, "ClientKey") {
			continue
		}
		for _, dryRun := range []string{"true", "false"} {
			present := b.do(c, action, "Name", "other", "DryRun", dryRun)
			absent := b.do(c, action, "Name", "none", "DryRun", dryRun)
			if present.Status != 403 || present.Code != absent.Code || present.Message != absent.Message {
				t.Errorf("%s: got %d %s %q for a name that exists, %d %s %q for one that does not, want both the same",
					action, present.Status, present.Code, present.Message, absent.Status, absent.Code, absent.Message)
			}
		}
	}
	for _, action := range []string{"GetClientKey", "DeleteClientKey"} {
		for _, dryRun := range []string{"true", "false"} {
			present := b.do(c, action, "ClientKeyId", other, "DryRun", dryRun)
			absent := b.do(c, action, "ClientKeyId", "KAAP."+uuid.NewString(), "DryRun", dryRun)
			if present.Status != 403 || present.Code != absent.Code || present.Message != absent.Message {
				t.Errorf("%s: got %d %s %q for a client key that exists, %d %s %q for one that does not",
					action, present.Status, present.Code, present.Message, absent.Status, absent.Code, absent.Message)
			}
		}
		b.want(b.do(b.root, action, "ClientKeyId", "KAAP."+uuid.NewString()), 404, "Forbidden.ResourceNotFound")
	}
	b.want(b.do(c, "ListClientKeys"), 403, "Forbidden.NoPermission")
	b.want(b.do(c, "ListClientKeys", "AapName", "other"), 403, "Forbidden.NoPermission")
	b.want(b.do(c, "ListClientKeys", "AapName", "none"), 403, "Forbidden.NoPermission")
	b.want(b.do(c, "ListPolicies"), 403, "Forbidden.NoPermission")
	b.want(b.do(c, "CreateClientKey", "AapName", "other", "Password", "password1"), 403, "Forbidden.NoPermission")
	b.want(b.do(c, "CreateClientKey", "AapName", "none", "Password", "password1"), 403, "Forbidden.NoPermission")
	// The caller has access to mine.
	b.want(b.do(c, "ListClientKeys", "AapName", "mine"), 200, "")
	b.want(b.do(c, "GetClientKey", "ClientKeyId", mine), 200, "")
	a := b.want(b.do(c, "DeleteClientKey", "ClientKeyId", mine), 200, "")
	if e, _ := b.auditLine(a.RequestId); e.Subject != "mine/"+mine {
		t.Errorf("DeleteClientKey: got audit line for %q, want %q", e.Subject, "mine/"+mine)
	}
	b.want(b.do(c, "DescribeNetworkRule", "Name", "mine"), 200, "")
	b.want(b.do(c, "DeletePolicy", "Name", "mine"), 200, "")
	lists := b.newUser("lists", document(allow("kms:List*", account+"network"), allow("kms:List*", account+"policy"), allow("kms:List*", account+"applicationaccesspoint"), allow("kms:ListClientKeys", account+"applicationaccesspoint/*")))
	for _, action := range []string{"ListNetworkRules", "ListPolicies", "ListApplicationAccessPoints", "ListClientKeys"} {
		b.want(b.do(lists, action), 200, "")
	}
	reader := b.newUser("reader", document(allow("kms:none", "*")))
	b.local("AttachPolicyToUser", nil, "UserName", "reader", "PolicyName", "AliyunKMSReadOnlyAccess")
	for _, action := range []string{"ListNetworkRules", "DescribeNetworkRule", "DescribePolicy", "DescribeApplicationAccessPoint", "GetClientKey", "ListClientKeys"} {
		b.want(b.do(reader, action, b.scenario(action)...), 200, "")
	}
	b.want(b.do(reader, "CreateClientKey", "AapName", "other", "Password", "password1"), 403, "Forbidden.NoPermission")
}
