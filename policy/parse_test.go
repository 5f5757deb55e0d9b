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
		"nothing":           {``, "not JSON"},
		"not JSON":          {`Allow everything`, "line 1, column 1: the policy is not JSON"},
		"second line":       {"{\n \"Versiön\": 1}", `line 2, column 2: unsupported policy element "Versiön"`},
		"cut short":         {`{"Version":"1","Statement":[{"Effect":"Allow"`, "line 1, column 45: the policy is not JSON"},
		"comma at the end":  {strings.Replace(good, `"}]`, `",}]`, 1), "line 1, column 75: the policy is not JSON"},
		"no object":         {`[]`, "line 1, column 1: expected an object"},
		"null":              {`null`, "line 1, column 1: expected an object"},
		"another version":   {strings.Replace(good, `:"1"`, `:"2"`, 1), `line 1, column 12: the Version is "2"`},
		"version as number": {strings.Replace(good, `:"1"`, `: 1`, 1), `line 1, column 13: expected a string`},
		"no version": {`{"Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`,
			"line 1, column 62: the policy has no Version"},
		"no statement":      {document(), "line 1, column 28: the list is empty"},
		"no Statement":      {`{"Version":"1"}`, "the policy has no Statement"},
		"statement is null": {document(`null`), "statement 1: line 1, column 29: expected an object"},
		"no effect": {document(`{"Action":"*","Resource":"*"}`),
			"statement 1: line 1, column 57: the statement that ends here has no Effect"},
		"effect in lower": {document(`{"Effect":"allow","Action":"*","Resource":"*"}`),
			`Effect: line 1, column 39: "allow" is neither`},
		"effect is null": {document(`{"Effect":null,"Action":"*","Resource":"*"}`), "expected a string"},
		"no action":      {document(`{"Effect":"Allow","Resource":"*"}`), "has no Action"},
		"no resource": {document(`{"Effect":"Deny","Action":"*","Resource":[]}`),
			"Resource: line 1, column 70: the list is empty"},
		"empty resource": {document(`{"Effect":"Deny","Action":"*","Resource":[""]}`),
			"an empty string matches nothing"},
		"number as action": {document(`{"Effect":"Deny","Action":1,"Resource":"*"}`),
			"Action: line 1, column 55: expected a string"},
		"action in two lists": {document(`{"Effect":"Deny","Action":[["*"]],"Resource":"*"}`),
			"Action: line 1, column 56: expected a string"},
		"unknown member": {document(`{"Effect":"Deny","NotAction":"*","Resource":"*"}`),
			`line 1, column 46: unsupported statement element "NotAction"`},
		"Sid": {document(`{"Sid":"x","Effect":"Deny","Action":"*","Resource":"*"}`),
			`unsupported statement element "Sid"`},
		"unknown at the top": {`{"Version":"1","Id":"x"}`, `line 1, column 16: unsupported policy element "Id"`},
		"in the 2nd": {document(good[28:len(good)-2], `{}`),
			"statement 2: line 1, column 77: the statement that ends here has no Action"},
		"second document": {good + `{}`, "line 1, column 77: the policy is not JSON"},
		"too long":        {strings.Repeat(" ", policy.MaxDocument+1), "32769 bytes; the limit is 32768"},
		"effect twice": {document(`{"Effect":"Deny","Effect":"Allow","Action":"*","Resource":"*"}`),
			`line 1, column 46: "Effect" occurs twice`},
		"twice by an escape": {document(`{"Effect":"Deny","\u0045ffect":"Allow","Action":"*","Resource":"*"}`),
			`"Effect" occurs twice`},
		"in lower case": {document(`{"Effect":"Deny","action":"*","Action":"kms:x","Resource":"*"}`),
			`line 1, column 46: "action" must be spelled "Action"`},
		"other fold": {document(`{"Effect":"Deny","Re\u017fource":"*","Action":"kms:x","Resource":"*"}`),
			`"Reſource" must be spelled "Resource"`},
		"two statements": {`{"Version":"1","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}],"Statement":[{"Effect":"Allow"}]}`, `"Statement" occurs twice`},
		"two in two cases": {`{"Version":"1","statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`,
			`line 1, column 16: "statement" must be spelled "Statement"`},
		"statement no list": {`{"Version":"1","Statement":"Allow"}`, "line 1, column 28: expected a list"},
		"not UTF-8":         {strings.Replace(good, `"*"`, "\"\xc0\xaf\"", 1), "line 1, column 57: the policy is not UTF-8"},
		"lone surrogate":    {strings.Replace(good, `"*"`, `"\udc00*"`, 1), "an unpaired surrogate"},
		"deep":              {deep(policy.MaxDocument / 2), "not JSON"},
		"deep, but valid":   {deep(9000), "expected an object"},
		"deep in a member":  {document(`{"Effect":` + deep(9000) + `}`), "expected a string"},
		"deep in objects":   {strings.Repeat(`{"Statement":[`, 2000), "not JSON"},
		"newline in a name": {document("{\"a\\nb\":1}"), `unsupported statement element "a\nb"`},
	} {
		if _, err := policy.Parse(c[0]); err == nil || !strings.Contains(err.Error(), c[1]) {
			t.Errorf("%s: got %v, want %s", name, err, c[1])
		}
	}
}

func TestParseTakes(t *testing.T) {
	for name, document := range map[string]string{
		"members in another order": `{"Statement":[{"Resource":["*"],"Action":["*"],"Effect":"Allow"}],"Version":"1"}`,
		"white space":              " {\n\"Version\" : \"1\" ,\t\"Statement\":[ {\"Effect\":\"Allow\",\"Action\":\"*\",\"Resource\":\"*\" } ]\r\n} ",
		"escapes":                  `{"\u0056ersion":"1","Statement":[{"Effect":"\u0041llow","Action":"*","Resource":"\ud83d\ude00*"}]}`,
		"maximum size": document(`{"Effect":"Allow","Action":"*","Resource":"*"}`) +
			strings.Repeat(" ", policy.MaxDocument-76),
	} {
		parse(t, document)
		if name == "maximum size" && len(document) != policy.MaxDocument {
			t.Errorf("%s: got %d bytes, want %d", name, len(document), policy.MaxDocument)
		}
	}
}

// located matches the position at which every error begins. The error for an oversized document has
// none.
var located = regexp.MustCompile(
	`^(statement \d+: )?([A-Z][A-Za-z]+: )*("(?s:.*)": )?line \d+, column \d+: .|^the policy has \d+ bytes`)

// checkResult checks the result of a parser: either the policy decides without a panic, or the
// error begins with a position and is one line of limited length.
func checkResult(t *testing.T, p *policy.Policy, err error) {
	t.Helper()
	if err != nil {
		if !located.MatchString(err.Error()) || strings.ContainsAny(err.Error(), "\n\r\x00") || len(err.Error()) > 800 {
			t.Errorf("error: got %v, want a position and one line of at most 800 bytes", err)
		}
		return
	}
	policy.Decide([]policy.Named{{Name: "x", Policy: p}}, policy.Request{
		Action: "kms:AsymmetricSign", Resource: key1, Principal: alice,
		Values: values{
			"acs:SourceIp": "10.0.0.1", "acs:CurrentTime": "2026-01-01T00:00:00Z",
			"acs:MFAPresent": "true", "kms:tag/a": "1",
		},
	})
}

func FuzzParse(f *testing.F) {
	f.Add(document(`{"Effect":"Allow","Action":["kms:*"],"Resource":"*"}`))
	for _, condition := range []string{
		`{"Bool":{"acs:MFAPresent":true},"NotIpAddress":{"acs:SourceIp":["10.0.0.0/8","::1"]}}`,
		`{"NumericLessThan":{"kms:tag/a":[-1.5,"2"]},"StringLike":{"kms:tag/b":"*世?"}}`,
		`{"DateGreaterThan":{"acs:CurrentTime":"2026-01-01T00:00:00+08:00"}}`,
	} {
		f.Add(document(`{"Effect":"Deny","Action":"*","Resource":["*"],"Condition":` + condition + `}`))
	}
	f.Fuzz(func(t *testing.T, document string) {
		p, err := policy.Parse(document)
		checkResult(t, p, err)
		if _, keyErr := policy.ParseKeyPolicy(document); err == nil && keyErr == nil {
			t.Error("Parse and ParseKeyPolicy both accept the document, want at most one")
		}
	})
}
