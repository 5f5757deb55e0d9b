package policy_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/policy"
)

func TestParseRefuses(t *testing.T) {
	good := document(`{"Effect":"Allow","Action":"*","Resource":"*"}`)
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for name, c := range map[string][2]string{
		"nothing":             {``, "not JSON"},
		"not JSON":            {`Allow everything`, "at byte 1: the policy is not JSON"},
		"cut short":           {`{"Version":"1","Statement":[{"Effect":"Allow"`, "at byte 45: the policy is not JSON"},
		"comma at the end":    {strings.Replace(good, `"}]`, `",}]`, 1), "at byte 75: the policy is not JSON"},
		"no object":           {`[]`, "at byte 1: expected an object"},
		"null":                {`null`, "at byte 1: expected an object"},
		"another version":     {strings.Replace(good, `:"1"`, `:"2"`, 1), `at byte 12: the Version is "2"`},
		"version as number":   {strings.Replace(good, `:"1"`, `: 1`, 1), `at byte 13: expected a string`},
		"no version":          {`{"Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`, "at byte 62: the policy has no Version"},
		"no statement":        {document(), "at byte 28: the list is empty"},
		"no Statement":        {`{"Version":"1"}`, "the policy has no Statement"},
		"statement is null":   {document(`null`), "statement 1: at byte 29: expected an object"},
		"no effect":           {document(`{"Action":"*","Resource":"*"}`), "statement 1: at byte 57: the statement that ends here has no Effect"},
		"effect in lower":     {document(`{"Effect":"allow","Action":"*","Resource":"*"}`), `Effect: at byte 39: "allow" is neither`},
		"effect is null":      {document(`{"Effect":null,"Action":"*","Resource":"*"}`), "expected a string"},
		"no action":           {document(`{"Effect":"Allow","Resource":"*"}`), "has no Action"},
		"no resource":         {document(`{"Effect":"Deny","Action":"*","Resource":[]}`), "Resource: at byte 70: the list is empty"},
		"empty resource":      {document(`{"Effect":"Deny","Action":"*","Resource":[""]}`), "an empty string matches nothing"},
		"number as action":    {document(`{"Effect":"Deny","Action":1,"Resource":"*"}`), "Action: at byte 55: expected a string"},
		"action in two lists": {document(`{"Effect":"Deny","Action":[["*"]],"Resource":"*"}`), "Action: at byte 56: expected a string"},
		"unknown member":      {document(`{"Effect":"Deny","NotAction":"*","Resource":"*"}`), `at byte 46: "NotAction" is no member of a statement`},
		"Sid":                 {document(`{"Sid":"x","Effect":"Deny","Action":"*","Resource":"*"}`), `"Sid" is no member of a statement`},
		"unknown at the top":  {`{"Version":"1","Id":"x"}`, `at byte 16: "Id" is no member of a policy`},
		"in the 2nd":          {document(good[28:len(good)-2], `{}`), "statement 2: at byte 77: the statement that ends here has no Action"},
		"second document":     {good + `{}`, "at byte 77: the policy is not JSON"},
		"too long":            {strings.Repeat(" ", policy.MaxDocument+1), "32769 bytes, more than 32768"},
		"effect twice":        {document(`{"Effect":"Deny","Effect":"Allow","Action":"*","Resource":"*"}`), `at byte 46: "Effect" is there twice`},
		"twice by an escape":  {document(`{"Effect":"Deny","\u0045ffect":"Allow","Action":"*","Resource":"*"}`), `"Effect" is there twice`},
		"in lower case":       {document(`{"Effect":"Deny","action":"*","Action":"kms:x","Resource":"*"}`), `at byte 46: "action" is spelled "Action"`},
		"other fold":          {document(`{"Effect":"Deny","Re\u017fource":"*","Action":"kms:x","Resource":"*"}`), `"Reſource" is spelled "Resource"`},
		"two statements":      {`{"Version":"1","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}],"Statement":[{"Effect":"Allow"}]}`, `"Statement" is there twice`},
		"two in two cases":    {`{"Version":"1","statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`, `at byte 16: "statement" is spelled "Statement"`},
		"statement no list":   {`{"Version":"1","Statement":"Allow"}`, "at byte 28: expected a list"},
		"not UTF-8":           {strings.Replace(good, `"*"`, "\"\xc0\xaf\"", 1), "at byte 57: the policy is not UTF-8"},
		"half a surrogate":    {strings.Replace(good, `"*"`, `"\udc00*"`, 1), "half a surrogate pair"},
		"deep":                {deep(policy.MaxDocument / 2), "not JSON"},
		"deep, but valid":     {deep(9000), "expected an object"},
		"deep in a member":    {document(`{"Effect":` + deep(9000) + `}`), "expected a string"},
		"deep in objects":     {strings.Repeat(`{"Statement":[`, 2000), "not JSON"},
		"newline in a name":   {document("{\"a\\nb\":1}"), `"a\nb" is no member`},
	} {
		if _, err := policy.Parse(c[0]); err == nil || !strings.Contains(err.Error(), c[1]) {
			t.Errorf("%s: %v, want %s", name, err, c[1])
		}
	}
}

func TestParseTakes(t *testing.T) {
	for name, document := range map[string]string{
		"members in another order": `{"Statement":[{"Resource":["*"],"Action":["*"],"Effect":"Allow"}],"Version":"1"}`,
		"white space":              " {\n\"Version\" : \"1\" ,\t\"Statement\":[ {\"Effect\":\"Allow\",\"Action\":\"*\",\"Resource\":\"*\" } ]\r\n} ",
		"escapes":                  `{"\u0056ersion":"1","Statement":[{"Effect":"\u0041llow","Action":"*","Resource":"\ud83d\ude00*"}]}`,
		"of the greatest size":     document(`{"Effect":"Allow","Action":"*","Resource":"*"}`) + strings.Repeat(" ", policy.MaxDocument-76),
	} {
		parse(t, document)
		if name == "of the greatest size" && len(document) != policy.MaxDocument {
			t.Errorf("%s: %d bytes", name, len(document))
		}
	}
}

// located is what every error begins with, but for that of a document that is
// too long: where.
var located = regexp.MustCompile(`^(statement \d+: )?([A-Z][A-Za-z]+: )*("(?s:.*)": )?at byte \d+: .|^the policy has \d+ bytes`)

// decideOrSay checks that a policy decides, or that the error says where it is
// and is a line.
func decideOrSay(t *testing.T, p *policy.Policy, err error) {
	t.Helper()
	if err != nil {
		if !located.MatchString(err.Error()) || strings.ContainsAny(err.Error(), "\n\r\x00") || len(err.Error()) > 800 {
			t.Errorf("the error does not say where it is, or at length: %v", err)
		}
		return
	}
	policy.Decide([]policy.Named{{Name: "x", Policy: p}}, policy.Request{Action: "kms:AsymmetricSign", Resource: key1, Principal: alice,
		Values: map[string]string{"acs:SourceIp": "10.0.0.1", "acs:CurrentTime": "2026-01-01T00:00:00Z", "acs:MFAPresent": "true", "kms:tag/a": "1"}})
}

func FuzzParse(f *testing.F) {
	f.Add(document(`{"Effect":"Allow","Action":["kms:*"],"Resource":"*"}`))
	f.Add(document(`{"Effect":"Deny","Action":"*","Resource":["*"],"Condition":{"Bool":{"acs:MFAPresent":true},"NotIpAddress":{"acs:SourceIp":["10.0.0.0/8","::1"]}}}`))
	f.Add(document(`{"Effect":"Deny","Action":"*","Resource":"*","Condition":{"NumericLessThan":{"kms:tag/a":[-1.5,"2"]},"StringLike":{"kms:tag/b":"*世?"}}}`))
	f.Add(document(`{"Effect":"Deny","Action":"*","Resource":"*","Condition":{"DateGreaterThan":{"acs:CurrentTime":"2026-01-01T00:00:00+08:00"}}}`))
	f.Fuzz(func(t *testing.T, document string) {
		p, err := policy.Parse(document)
		decideOrSay(t, p, err)
		if _, keyErr := policy.ParseKeyPolicy(document); err == nil && keyErr == nil {
			t.Error("both a RAM policy and a key policy")
		}
	})
}
