package policy

import (
	"strings"
	"testing"
)

const key1, key2 = "acs:kms:cn-hangzhou:1000000000000001:key/1", "acs:kms:cn-hangzhou:1000000000000001:key/2"

func parse(t *testing.T, document string) *Policy {
	t.Helper()
	p, err := Parse(document)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestDecide(t *testing.T) {
	signOne := parse(t, `{"Version":"1","Statement":[{"Effect":"Allow","Action":["kms:AsymmetricSign","kms:GetPublicKey"],"Resource":"acs:kms:*:*:key/1"}]}`)
	all := parse(t, `{"Version":"1","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*"}]}`)
	notTwo := parse(t, `{"Version":"1","Statement":[{"Effect":"Deny","Action":"*","Resource":["acs:kms:*:key/2"]}]}`)

	check := func(want bool, action, resource string, policies ...*Policy) {
		t.Helper()
		if got := Decide(policies, Request{action, resource}); got.Allowed != want || got.Reason == "" {
			t.Errorf("%s on %s: %+v, want Allowed %v", action, resource, got, want)
		}
	}
	check(false, "kms:AsymmetricSign", key1)
	check(true, "kms:AsymmetricSign", key1, signOne)
	check(true, "KMS:asymmetricsign", key1, signOne)
	check(false, "kms:AsymmetricSign", key2, signOne)
	check(false, "kms:AsymmetricVerify", key1, signOne)
	check(false, "kms:AsymmetricSign", strings.ToUpper(key1), signOne)
	check(true, "kms:AsymmetricSign", key2, signOne, all)
	check(false, "kms:AsymmetricSign", key2, all, notTwo)
	check(false, "kms:AsymmetricSign", key2, notTwo, all)
	check(true, "kms:AsymmetricSign", key1, notTwo, all)
	check(false, "ram:ListUsers", key1, all)
}

func TestParseRefuses(t *testing.T) {
	statement := func(s string) string { return `{"Version":"1","Statement":[` + s + `]}` }
	for name, document := range map[string]string{
		"nothing":           ``,
		"not JSON":          `Allow everything`,
		"cut short":         `{"Version":"1","Statement":[{"Effect":"Allow"`,
		"another version":   `{"Version":"2","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`,
		"no statement":      statement(``),
		"no effect":         statement(`{"Action":"*","Resource":"*"}`),
		"effect in lower":   statement(`{"Effect":"allow","Action":"*","Resource":"*"}`),
		"no action":         statement(`{"Effect":"Allow","Resource":"*"}`),
		"no resource":       statement(`{"Effect":"Deny","Action":"*","Resource":[]}`),
		"empty resource":    statement(`{"Effect":"Deny","Action":"*","Resource":[""]}`),
		"number as action":  statement(`{"Effect":"Deny","Action":1,"Resource":"*"}`),
		"condition":         statement(`{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"IpAddress":{"acs:SourceIp":"10.0.0.0/8"}}}`),
		"unknown member":    statement(`{"Effect":"Deny","NotAction":"*","Resource":"*"}`),
		"second document":   statement(`{"Effect":"Allow","Action":"*","Resource":"*"}`) + `{}`,
		"too long":          strings.Repeat(" ", MaxDocument+1),
		"effect twice":      statement(`{"Effect":"Deny","Effect":"Allow","Action":"*","Resource":"*"}`),
		"in lower case":     statement(`{"Effect":"Deny","action":"*","Action":"kms:x","Resource":"*"}`),
		"two statements":    `{"Version":"1","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}],"Statement":[{"Effect":"Allow"}]}`,
		"two in two cases":  `{"Version":"1","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}],"statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`,
		"statement no list": `{"Version":"1","Statement":"Allow"}`,
	} {
		if _, err := Parse(document); err == nil {
			t.Errorf("%s: parsed", name)
		}
	}
}

// FuzzMatch compares the matcher with the definition, written naively.
func FuzzMatch(f *testing.F) {
	f.Add("kms:*", "kms:AsymmetricSign")
	f.Add("a*b?c*", "aXbYcb?c")
	f.Add("***?", "x")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern) > 12 || len(s) > 12 {
			return // the naive one takes exponential time
		}
		if got, want := match(pattern, s), naive(pattern, s); got != want {
			t.Errorf("match(%q, %q) = %v, want %v", pattern, s, got, want)
		}
	})
}

func naive(pattern, s string) bool {
	switch {
	case pattern == "":
		return s == ""
	case pattern[0] == '*':
		return naive(pattern[1:], s) || s != "" && naive(pattern, s[1:])
	case s == "":
		return false
	}
	return (pattern[0] == '?' || pattern[0] == s[0]) && naive(pattern[1:], s[1:])
}

func FuzzParse(f *testing.F) {
	f.Add(`{"Version":"1","Statement":[{"Effect":"Allow","Action":["kms:*"],"Resource":"*"}]}`)
	f.Fuzz(func(t *testing.T, document string) {
		p, err := Parse(document)
		if err != nil {
			return
		}
		Decide([]*Policy{p}, Request{"kms:AsymmetricSign", key1})
	})
}

// TestMatchTakesBoundedTime would not end in a matcher that tries all ways to
// place the stars.
func TestMatchTakesBoundedTime(t *testing.T) {
	if match(strings.Repeat("a*", 5000)+"b", strings.Repeat("a", 30000)) {
		t.Error("matched")
	}
}
