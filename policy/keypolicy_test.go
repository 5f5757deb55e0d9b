package policy_test

import (
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/policy"
)

func TestParseKeyPolicy(t *testing.T) {
	const good = `{"Version":"1","Statement":[{"Sid":"kms default key policy","Effect":"Allow",` +
		`"Principal":{"RAM":["acs:ram::1000000000000001:*","acs:ram::1:user/a.b@c"]},` +
		`"Action":["kms:*","kms:List*","kms:ListKeys","kms:AsymmetricSign"],"Resource":["*"],` +
		`"Condition":{"IpAddress":{"acs:SourceIp":["10.0.0.0/8"]}}}]}`
	parseKey(t, good)
	for name, change := range map[string][3]string{
		"another version": {`"Version":"1"`, `"Version":"2"`, `line 1, column 12: the Version is "2", not "1"`},
		"no statement":    {good, `{"Version":"1","Statement":[]}`, "line 1, column 28: the list is empty"},
		"no JSON":         {`}]}`, `}]`, "the policy is not JSON"},
		"Sid too long": {"kms default", strings.Repeat("k", 129),
			"statement 1: Sid: line 1, column 36: the Sid"},
		"Sid with a quote": {"kms default", `kms\"`, "the Sid must be"},
		"Sid is no string": {`"kms default key policy"`, `null`, "expected a string"},
		"another effect":   {`"Allow"`, `"Maybe"`, `"Maybe" is neither`},
		"effect twice":     {`"Effect":"Allow"`, `"Effect":"Deny","Effect":"Allow"`, `"Effect" occurs twice`},
		"no principal": {`["acs:ram::1000000000000001:*","acs:ram::1:user/a.b@c"]`, `[]`,
			"Principal: line 1, column 97: the list is empty"},
		"no member Principal": {`"Principal":{"RAM":["acs:ram::1000000000000001:*","acs:ram::1:user/a.b@c"]},`,
			``, "has no Principal"},
		"unsupported principal type": {`"RAM":["acs:ram::1000000000000001:*","acs:ram::1:user/a.b@c"]`, ``,
			"the Principal has no RAM"},
		"another kind": {`"RAM":`, `"Service":`, "unsupported principal type"},
		"everybody": {`{"RAM":["acs:ram::1000000000000001:*","acs:ram::1:user/a.b@c"]}`, `"*"`,
			"expected an object"},
		"principal of any account":  {"acs:ram::1:user/a.b@c", "acs:ram::*:user/a", "is not acs:ram::<account>:"},
		"principal of no account":   {"acs:ram::1:user", "acs:ram:::user", "is not acs:ram::<account>:"},
		"principal of another kind": {":user/a.b@c", ":group/a", "is not acs:ram::<account>:"},
		"principal with a wildcard": {":user/a.b@c", ":user/a*", "is not acs:ram::<account>:"},
		"action of another service": {"kms:AsymmetricSign", "oss:GetObject", "no effect"},
		"action that is unknown":    {"kms:AsymmetricSign", "kms:Nonsense", "no effect"},
		"action that has no effect": {"kms:AsymmetricSign", "kms:ReEncrypt", "no effect"},
		"action without a name":     {"kms:AsymmetricSign", "kms:", "no effect"},
		"action with a hole":        {"kms:ListKeys", "kms:List?eys", "no effect"},
		"no action": {`["kms:*","kms:List*","kms:ListKeys","kms:AsymmetricSign"]`, `[]`,
			"Action: line 1, column 163: the list is empty"},
		"resource is no list": {`["*"]`, `"*"`, "Resource: line 1, column 232: expected a list"},
		"another resource":    {`["*"]`, `["acs:kms:*"]`, `the Resource must be ["*"]`},
		"two resources":       {`["*"]`, `["*","*"]`, `the Resource must be ["*"]`},
		"condition is no object": {`{"IpAddress":{"acs:SourceIp":["10.0.0.0/8"]}}`, `3`,
			"Condition: line 1, column 250: expected an object"},
		"condition is unknown": {"acs:SourceIp", "acs:SourceVpc",
			`line 1, column 264: unsupported condition key "acs:SourceVpc"`},
		"unknown member": {`"Sid":`, `"Id":`,
			`statement 1: line 1, column 30: unsupported statement element "Id"`},
		"not UTF-8": {"default", "\xff", "line 1, column 41: the policy is not UTF-8"},
		"too long": {`{"Version"`, strings.Repeat(" ", policy.MaxDocument) + `{"Version"`,
			"the limit is 32768"},
	} {
		document := strings.Replace(good, change[0], change[1], 1)
		if document == good {
			t.Errorf("%s: the good policy does not contain %s", name, change[0])
		}
		if _, err := policy.ParseKeyPolicy(document); err == nil || !strings.Contains(err.Error(), change[2]) {
			t.Errorf("%s: got %v, want %s", name, err, change[2])
		}
	}
}

func TestPrincipals(t *testing.T) {
	const account, other = "acs:ram::1000000000000001:", "acs:ram::2:"
	for _, c := range []struct {
		principal, caller string
		want              bool
	}{
		{account + "*", alice, true},
		{account + "*", account + "role/r", true},
		{account + "*", root, false},
		{account + "*", account, false},
		{account + "*", account + "group/g", false},
		{account + "*", "", false},
		{account + "*", other + "user/alice", false},
		{account + "*", "x" + alice, false},
		{"acs:ram::100000000000000:*", alice, false},
		{account + "root", root, true},
		{account + "root", alice, false},
		{account + "root", root + "/user/x", false},
		{alice, alice, true},
		{alice, bob, false},
		{alice, alice + "x", false},
		{alice, strings.ToUpper(alice), false},
		{alice, root, false},
		{account + "role/alice", alice, false},
		{other + "user/alice", alice, false},
	} {
		for _, effect := range []string{"Allow", "Deny"} {
			p := parseKey(t, document(`{"Effect":"`+effect+`","Principal":{"RAM":["acs:ram::7:root","`+c.principal+
				`"]},"Action":"kms:*","Resource":["*"]}`))
			all := parse(t, document(`{"Effect":"Allow","Action":"*","Resource":"*"}`))
			policies, want := []policy.Named{p}, c.want
			if effect == "Deny" {
				policies, want = append(policies, all), !c.want
			}
			r := policy.Request{Action: "kms:ListKeys", Resource: key1, Principal: c.caller}
			if got := policy.Decide(policies, r); got.Allowed != want {
				t.Errorf("%s for principal %s, caller %s: got %+v, want Allowed %v",
					effect, c.principal, c.caller, got, want)
			}
		}
	}
}

// TestKeyPolicyIsNoRAMPolicy checks that each parser refuses a document of the other kind. A key
// policy's principals would otherwise be ignored.
func TestKeyPolicyIsNoRAMPolicy(t *testing.T) {
	key := document(`{"Effect":"Allow","Principal":{"RAM":["acs:ram::1:*"]},"Action":["kms:*"],"Resource":["*"]}`)
	ram := document(`{"Effect":"Allow","Action":["kms:*"],"Resource":["*"]}`)
	const want = `line 1, column 47: unsupported statement element "Principal"`
	if _, err := policy.Parse(key); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("key policy as RAM policy: got %v, want %s", err, want)
	}
	if _, err := policy.ParseKeyPolicy(ram); err == nil || !strings.Contains(err.Error(), "no Principal") {
		t.Errorf("RAM policy as key policy: got %v, want \"no Principal\"", err)
	}
}

func FuzzKeyPolicy(f *testing.F) {
	f.Add(document(`{"Effect":"Allow","Principal":{"RAM":["acs:ram::1:*"]},"Action":["kms:*"],"Resource":["*"]}`))
	f.Add(document(`{"Sid":"x","Effect":"Deny","Principal":{"RAM":"acs:ram::1:root"},"Action":"kms:List*",` +
		`"Resource":["*"],"Condition":{"Bool":{"acs:MFAPresent":false}}}`))
	f.Fuzz(func(t *testing.T, document string) {
		p, err := policy.ParseKeyPolicy(document)
		checkResult(t, p, err)
	})
}
