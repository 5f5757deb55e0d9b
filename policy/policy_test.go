package policy_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/kmsgate/kmsgate/policy"
)

const key1, key2 = "acs:kms:cn-hangzhou:1000000000000001:key/1", "acs:kms:cn-hangzhou:1000000000000001:key/2"

const (
	alice = "acs:ram::1000000000000001:user/alice"
	bob   = "acs:ram::1000000000000001:user/bob"
	root  = "acs:ram::1000000000000001:root"
)

func parse(t testing.TB, document string) policy.Named {
	t.Helper()
	p, err := policy.Parse(document)
	if err != nil {
		t.Fatal(err)
	}
	return policy.Named{Name: "ram", Policy: p}
}

func parseKey(t testing.TB, document string) policy.Named {
	t.Helper()
	p, err := policy.ParseKeyPolicy(document)
	if err != nil {
		t.Fatal(err)
	}
	return policy.Named{Name: "key", Policy: p}
}

func document(statements ...string) string {
	return `{"Version":"1","Statement":[` + strings.Join(statements, ",") + `]}`
}

func TestDecide(t *testing.T) {
	signOne := parse(t, document(
		`{"Effect":"Allow","Action":["kms:AsymmetricSign","kms:GetPublicKey"],"Resource":"acs:kms:*:*:key/1"}`))
	all := parse(t, document(`{"Effect":"Allow","Action":"kms:*","Resource":"*"}`))
	notTwo := parse(t, document(`{"Effect":"Deny","Action":"*","Resource":["acs:kms:*:key/2"]}`))

	check := func(want bool, action, resource string, policies ...policy.Named) {
		t.Helper()
		got := policy.Decide(policies, policy.Request{Action: action, Resource: resource})
		if got.Allowed != want || got.Reason() == "" {
			t.Errorf("%s on %s: got %+v, want Allowed %v and a reason", action, resource, got, want)
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
	check(false, "kms:AsymmetricSign", key1, all, policy.Named{Name: "none"})
	check(false, "kms:AsymmetricSign", key1, policy.Named{Name: "empty", Policy: new(policy.Policy)})
}

// TestDecision checks which policy and statement a decision names, with a key policy and RAM
// policies.
func TestDecision(t *testing.T) {
	sign := `"Action":["kms:AsymmetricSign"],"Resource":["*"]`
	everyone, onlyAlice := `"Principal":{"RAM":["acs:ram::1000000000000001:*"]},`, `"Principal":{"RAM":"`+alice+`"},`
	ram := parse(t, document(`{"Effect":"Allow","Action":"kms:List*","Resource":"*"}`, `{"Effect":"Allow",`+sign+`}`))
	ramDeny := parse(t, document(`{"Effect":"Deny",`+sign+`}`))
	key := parseKey(t, document(`{"Effect":"Allow",`+everyone+sign+`}`))
	keyAlice := parseKey(t, document(`{"Sid":"for one","Effect":"Allow",`+onlyAlice+sign+`}`))
	keyDeny := parseKey(t, document(`{"Effect":"Allow",`+everyone+sign+`}`,
		`{"Sid":"not you","Effect":"Deny",`+onlyAlice+sign+`}`))
	for _, c := range []struct {
		policies  []policy.Named
		principal string
		want      policy.Decision // with the reason as its Cause
	}{
		{[]policy.Named{ram, keyAlice}, alice, policy.Decision{Allowed: true,
			Cause: `allowed by statement 2 of policy "ram"`, Policy: "ram", Statement: 2}},
		{[]policy.Named{keyAlice}, alice, policy.Decision{Allowed: true,
			Cause: `allowed by statement 1 ("for one") of policy "key"`, Policy: "key", Statement: 1}},
		{[]policy.Named{keyAlice}, bob, policy.Decision{Cause: "no statement allows it"}},
		{[]policy.Named{ram, keyAlice}, bob, policy.Decision{Allowed: true,
			Cause: `allowed by statement 2 of policy "ram"`, Policy: "ram", Statement: 2}},
		{[]policy.Named{ram, keyDeny}, alice,
			policy.Decision{Cause: `denied by statement 2 ("not you") of policy "key"`, Policy: "key", Statement: 2}},
		{[]policy.Named{keyDeny, ram}, alice,
			policy.Decision{Cause: `denied by statement 2 ("not you") of policy "key"`, Policy: "key", Statement: 2}},
		{[]policy.Named{keyDeny}, bob, policy.Decision{Allowed: true, Cause: `allowed by statement 1 of policy "key"`,
			Policy: "key", Statement: 1}},
		{[]policy.Named{key, ramDeny}, bob, policy.Decision{Cause: `denied by statement 1 of policy "ram"`,
			Policy: "ram", Statement: 1}},
		{[]policy.Named{ramDeny, key}, bob, policy.Decision{Cause: `denied by statement 1 of policy "ram"`,
			Policy: "ram", Statement: 1}},
		{[]policy.Named{ram, {Name: "lost"}}, bob,
			policy.Decision{Cause: `policy "lost" was not parsed`, Policy: "lost"}},
	} {
		r := policy.Request{Action: "kms:AsymmetricSign", Resource: key1, Principal: c.principal}
		got := policy.Decide(c.policies, r)
		got.Cause, got.Sid = got.Reason(), ""
		if got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.principal, got, c.want)
		}
	}
}

// TestDocumentation evaluates documents of the shapes that RAM's and KMS's pages show: allowing
// some addresses, denying all except some, an expiry date, HTTPS and MFA, and a key's tag.
func TestDocumentation(t *testing.T) {
	allow := func(condition string) string {
		return `{"Action":"kms:*","Effect":"Allow","Resource":"*","Condition":` + condition + `}`
	}
	fromOffice := document(allow(`{"IpAddress":{"acs:SourceIp":["192.0.2.0/24","203.0.113.2"]}}`))
	officeOnly := document(`{"Action":"kms:*","Effect":"Allow","Resource":"*"}`,
		`{"Action":"kms:*","Effect":"Deny","Resource":"*",`+
			`"Condition":{"NotIpAddress":{"acs:SourceIp":["192.0.2.0/24","203.0.113.2"]}}}`)
	until := document(allow(`{"DateLessThan":{"acs:CurrentTime":"2030-08-12T17:00:00+08:00"}}`))
	secureOnly := document(allow(
		`{"Bool":{"acs:SecureTransport":"true","acs:MFAPresent":["true"]},"IpAddress":{"acs:SourceIp":"10.0.0.1"}}`))
	tagged := document(allow(`{"StringEqualsIgnoreCase":{"kms:tag/team":["payments","Billing"]}}`))
	for _, c := range []struct {
		document string
		values   map[string]string
		want     bool
	}{
		{fromOffice, map[string]string{"acs:SourceIp": "192.0.2.77"}, true},
		{fromOffice, map[string]string{"acs:SourceIp": "203.0.113.2"}, true},
		{fromOffice, map[string]string{"acs:SourceIp": "203.0.113.3"}, false},
		{fromOffice, nil, false},
		{officeOnly, map[string]string{"acs:SourceIp": "203.0.113.2"}, true},
		{officeOnly, map[string]string{"acs:SourceIp": "203.0.113.3"}, false},
		{officeOnly, nil, false},
		{until, map[string]string{"acs:CurrentTime": "2030-08-12T08:59:59Z"}, true},
		{until, map[string]string{"acs:CurrentTime": "2030-08-12T09:00:00Z"}, false},
		{secureOnly, map[string]string{"acs:SecureTransport": "true", "acs:MFAPresent": "true", "acs:SourceIp": "10.0.0.1"},
			true},
		{secureOnly, map[string]string{"acs:SecureTransport": "true", "acs:MFAPresent": "false",
			"acs:SourceIp": "10.0.0.1"}, false},
		{secureOnly, map[string]string{"acs:SecureTransport": "true", "acs:SourceIp": "10.0.0.1"}, false},
		{secureOnly, map[string]string{"acs:SecureTransport": "true", "acs:MFAPresent": "true", "acs:SourceIp": "10.0.0.2"},
			false},
		{tagged, map[string]string{"kms:tag/team": "PAYMENTS"}, true},
		{tagged, map[string]string{"kms:tag/team": "sales"}, false},
		{tagged, map[string]string{"kms:tag/Team": "payments"}, false},
	} {
		r := policy.Request{Action: "kms:AsymmetricSign", Resource: key1, Values: values(c.values)}
		if got := policy.Decide([]policy.Named{parse(t, c.document)}, r); got.Allowed != c.want {
			t.Errorf("%s with %v: got %+v, want Allowed %v", c.document, c.values, got, c.want)
		}
	}
}

// TestConcurrent lets the race detector check that goroutines can share a policy.
func TestConcurrent(t *testing.T) {
	p := parse(t, document(`{"Effect":"Allow","Action":"kms:*","Resource":"*",`+
		`"Condition":{"DateLessThan":{"acs:CurrentTime":"2030-01-01T00:00:00Z"}}}`))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			r := policy.Request{Action: "kms:ListKeys", Resource: key1,
				Values: values{"acs:CurrentTime": "2029-01-01T00:00:00Z"}}
			if got := policy.Decide([]policy.Named{p}, r); !got.Allowed {
				t.Errorf("got %+v, want Allowed true", got)
			}
		})
	}
	wg.Wait()
}

func ExampleDecide() {
	user, err := policy.Parse(`{"Version": "1", "Statement": [{
		"Effect": "Allow", "Action": "kms:AsymmetricSign", "Resource": "acs:kms:*:*:key/*",
		"Condition": {"IpAddress": {"acs:SourceIp": "10.0.0.0/8"}}
	}]}`)
	if err != nil {
		panic(err)
	}
	d := policy.Decide([]policy.Named{{Name: "signers", Policy: user}}, policy.Request{
		Action:   "kms:AsymmetricSign",
		Resource: "acs:kms:local:1000000000000001:key/4cdd52fa",
		Values:   values{"acs:SourceIp": "10.1.2.3"},
	})
	fmt.Println(d.Allowed, d.Reason())
	// Output: true allowed by statement 1 of policy "signers"
}
