package policy

import (
	"strings"
	"testing"
)

func TestCheckKeyPolicy(t *testing.T) {
	const good = `{"Version":"1","Statement":[{"Sid":"kms default key policy","Effect":"Allow","Principal":{"RAM":["acs:ram::1000000000000001:*","acs:ram::1:user/a.b@c"]},"Action":["kms:*","kms:List*","kms:ListKeys","kms:AsymmetricSign"],"Resource":["*"],"Condition":{"IpAddress":{"acs:SourceIp":["10.0.0.0/8"]}}}]}`
	if err := CheckKeyPolicy(good); err != nil {
		t.Errorf("a good policy: %v", err)
	}
	for name, change := range map[string][2]string{
		"another version":           {`"Version":"1"`, `"Version":"2"`},
		"no statement":              {good, `{"Version":"1","Statement":[]}`},
		"no JSON":                   {`}]}`, `}]`},
		"Sid too long":              {"kms default", strings.Repeat("k", 129)},
		"Sid with a quote":          {"kms default", `kms\"`},
		"another effect":            {`"Allow"`, `"Maybe"`},
		"effect twice":              {`"Effect":"Allow"`, `"Effect":"Deny","Effect":"Allow"`},
		"no principal":              {`["acs:ram::1000000000000001:*","acs:ram::1:user/a.b@c"]`, `[]`},
		"principal of no account":   {"acs:ram::1:user", "acs:ram:::user"},
		"principal of another kind": {":user/a.b@c", ":group/a"},
		"action of another service": {"kms:AsymmetricSign", "oss:GetObject"},
		"action that is unknown":    {"kms:AsymmetricSign", "kms:Nonsense"},
		"action that has no effect": {"kms:AsymmetricSign", "kms:ReEncrypt"},
		"action without a name":     {"kms:AsymmetricSign", "kms:"},
		"action with a hole":        {"kms:ListKeys", "kms:List?eys"},
		"no action":                 {`["kms:*","kms:List*","kms:ListKeys","kms:AsymmetricSign"]`, `[]`},
		"resource is no list":       {`["*"]`, `"*"`},
		"another resource":          {`["*"]`, `["acs:kms:*"]`},
		"condition is no object":    {`{"IpAddress":{"acs:SourceIp":["10.0.0.0/8"]}}`, `3`},
		"unknown member":            {`"Sid":`, `"Id":`},
		"not UTF-8":                 {"default", "\xff"},
		"too long":                  {`{"Version"`, strings.Repeat(" ", MaxKeyPolicy) + `{"Version"`},
	} {
		document := strings.Replace(good, change[0], change[1], 1)
		if document == good {
			t.Errorf("%s: the policy was not changed", name)
		}
		if err := CheckKeyPolicy(document); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func FuzzKeyPolicy(f *testing.F) {
	f.Add(`{"Version":"1","Statement":[{"Effect":"Allow","Principal":{"RAM":["acs:ram::1:*"]},"Action":["kms:*"],"Resource":["*"]}]}`)
	f.Fuzz(func(t *testing.T, document string) {
		_ = CheckKeyPolicy(document) // it ends, and does not panic
	})
}
